/* Loss of power, simulated: whatever a file held at its last fsync is copied aside, and nothing else is.
 *
 * Preloaded into a process, with PERDURE_DURABLE naming the folder of the copies. After the process is
 * killed, the copies are what a disk would hold that never wrote a byte before it was told to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(int fd) {
    const char *folder = getenv("PERDURE_DURABLE");
    char link[64], path[PATH_MAX], kept[PATH_MAX + 16], part[PATH_MAX + 32];
    static char block[1 << 16];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (folder == NULL || length < 0)
        return;
    path[length] = 0;
    snprintf(kept, sizeof kept, "%s/%s", folder, strrchr(path, '/') + 1);
    snprintf(part, sizeof part, "%s.part", kept);
    int in = open(path, O_RDONLY | O_CLOEXEC), out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (in < 0 || out < 0)
        abort();
    for (ssize_t got; (got = read(in, block, sizeof block)) > 0;)
        if (write(out, block, got) != got)
            abort();
    close(in);
    close(out);
    if (rename(part, kept) != 0)
        abort();
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (result == 0)
        keep(fd);
    return result;
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    if (result == 0)
        keep(fd);
    return result;
}
