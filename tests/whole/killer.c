/* Kills the process at its n-th system call that changes files, once armed: between any two of them the file system is
   what another process would find. Preloaded into a worker; children that are started by exec begin unarmed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long seen, at = -1;

void perdure_arm(long when) { atomic_store(&seen, 0); atomic_store(&at, when); }
long perdure_disarm(void) { atomic_store(&at, -1); return atomic_load(&seen); }

static void step(void) {
    long when = atomic_load(&at);
    if (when >= 0 && atomic_fetch_add(&seen, 1) + 1 == when) kill(getpid(), SIGKILL);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) {
    REAL(pwrite64); step(); return real(fd, data, size, where);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) { REAL(pwrite); step(); return real(fd, data, size, where); }
ssize_t write(int fd, const void *data, size_t size) { REAL(write); if (fd > 2) step(); return real(fd, data, size); }
int fsync(int fd) { REAL(fsync); step(); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); step(); return real(fd); }
int rename(const char *old, const char *new) { REAL(rename); step(); return real(old, new); }
int renameat(int a, const char *old, int b, const char *new) { REAL(renameat); step(); return real(a, old, b, new); }
int unlink(const char *path) { REAL(unlink); step(); return real(path); }
int unlinkat(int fd, const char *path, int flags) { REAL(unlinkat); step(); return real(fd, path, flags); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); step(); return real(path, mode); }
int utimensat(int fd, const char *path, const struct timespec when[2], int flags) {
    REAL(utimensat); step(); return real(fd, path, when, flags);
}
int fchown(int fd, uid_t owner, gid_t group) { REAL(fchown); step(); return real(fd, owner, group); }
int symlinkat(const char *target, int fd, const char *path) { REAL(symlinkat); step(); return real(target, fd, path); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); step(); return real(fd, size); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); step(); return real(fd, size); }
int open64(const char *path, int flags, ...) {
    REAL(open64); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (flags & O_CREAT) step();
    return real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    REAL(open); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (flags & O_CREAT) step();
    return real(path, flags, mode);
}
