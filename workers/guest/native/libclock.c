/* The wall clock, the kernel's entropy and the order of directories, taken over where libc gives them.
 *
 * 1. A reading belongs to a lane (a thread that the runtime announced) and to a window (how many deliveries that
 *    thread had consumed). Recorded readings are given again in their lane and window, to whoever asks there.
 * 2. What is recorded between two drains is bounded: after FINE readings the clock moves in steps of GRANULE, and the
 *    steps double with every COARSE of them. A reading between two steps repeats the last one, and is counted.
 * 3. A library that is being imported reads and draws beside the code: nothing is recorded for it, and nothing moves.
 * 4. Nothing here allocates or waits in a reading: a signal handler that interrupts one gets the time as it is.
 *
 * Preloaded, and without effect until the runtime switches it on. Its rules are those of readings.py, its substitute.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>

#define PUBLIC __attribute__((visibility("default")))
#define SECOND INT64_C(1000000000)
#define FINE 64u
#define COARSE 256u
#define GRANULE INT64_C(1000000)
#define ENTRIES 4096u
#define LAST_ENTRIES 3840u
#define LANES 4096

struct entry {
    int64_t value;
    uint32_t count;
    uint32_t window;
};

struct lane {
    atomic_flag lock;
    uint32_t window;
    int64_t last, last_real;
    uint32_t fresh_count;
    struct entry *fresh;
    uint32_t recorded_count, recorded_at, recorded_used;
    struct entry *recorded;
};

static struct lane lanes[LANES];
static atomic_int lanes_used;
static atomic_int switched_on;
static _Atomic int64_t skew;
static __thread struct lane *mine __attribute__((tls_model("initial-exec")));
static __thread int inside __attribute__((tls_model("initial-exec")));
static __thread int beside __attribute__((tls_model("initial-exec")));

static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void find_real(void) {
    if (!real_clock_gettime)
        real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

static int64_t real_now(void) {
    struct timespec now;
    if (!real_clock_gettime)
        find_real();
    real_clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static int64_t granule_after(uint32_t count) {
    uint32_t doublings = count < LAST_ENTRIES ? (count - FINE) / COARSE : 15 + (count - LAST_ENTRIES) / 16;
    return GRANULE << doublings;
}

static int64_t live_reading(struct lane *lane, int64_t real) {
    int64_t value = real + atomic_load_explicit(&skew, memory_order_relaxed);
    if (value < lane->last) {
        atomic_fetch_add(&skew, lane->last - value);
        value = lane->last;
    }
    struct entry *before = lane->fresh_count ? &lane->fresh[lane->fresh_count - 1] : NULL;
    if (before && before->window == lane->window && before->count != UINT32_MAX) {
        int full = lane->fresh_count == ENTRIES;
        if (value == before->value || full ||
            (lane->fresh_count >= FINE && value - before->value < granule_after(lane->fresh_count))) {
            before->count++;
            return before->value;
        }
    }
    if (lane->fresh_count < ENTRIES)
        lane->fresh[lane->fresh_count++] = (struct entry){value, 1, lane->window};
    return value;
}

static int64_t recorded_reading(struct lane *lane, int64_t real) {
    struct entry *entry = &lane->recorded[lane->recorded_at];
    if (entry->window == lane->window) {
        if (++lane->recorded_used >= entry->count) {
            lane->recorded_at++;
            lane->recorded_used = 0;
        }
        return entry->value;
    }
    /* More is asked than was: time goes on from what was given last, as fast as it does. */
    if (lane->last)
        return lane->last + (real > lane->last_real ? real - lane->last_real : 0);
    return real < entry->value ? real : entry->value;
}

/* The time that the code would read, left there for it. */
static int64_t reading_beside(struct lane *lane, int64_t real) {
    int64_t value = lane->last ? lane->last + (real > lane->last_real ? real - lane->last_real : 0)
                               : real + atomic_load_explicit(&skew, memory_order_relaxed);
    int recorded = lane->recorded_at < lane->recorded_count;
    return recorded && lane->recorded[lane->recorded_at].value < value ? lane->recorded[lane->recorded_at].value : value;
}

static int64_t reading(int64_t real) {
    struct lane *lane = mine;
    if (!lane || inside || !atomic_load_explicit(&switched_on, memory_order_relaxed))
        return real;
    inside = 1;
    while (atomic_flag_test_and_set_explicit(&lane->lock, memory_order_acquire))
        ;
    if (beside) {
        int64_t value = reading_beside(lane, real);
        atomic_flag_clear_explicit(&lane->lock, memory_order_release);
        inside = 0;
        return value;
    }
    while (lane->recorded_at < lane->recorded_count && lane->recorded[lane->recorded_at].window < lane->window) {
        lane->recorded_at++;
        lane->recorded_used = 0;
    }
    int64_t value =
        lane->recorded_at < lane->recorded_count ? recorded_reading(lane, real) : live_reading(lane, real);
    lane->last = value;
    lane->last_real = real;
    atomic_flag_clear_explicit(&lane->lock, memory_order_release);
    inside = 0;
    return value;
}

/* -- what the runtime says ------------------------------------------------------------------------------------- */

static void take(struct lane *lane) {
    inside++;
    while (atomic_flag_test_and_set_explicit(&lane->lock, memory_order_acquire))
        ;
}

static void give(struct lane *lane) {
    atomic_flag_clear_explicit(&lane->lock, memory_order_release);
    inside--;
}

/* Switch readings on or off for the whole process; off, the clock is the real one. */
PUBLIC void perdure_clock_switch(int on) { atomic_store(&switched_on, on); }

/* Have this thread read and draw beside the code, or as the code (0); return how it was. */
PUBLIC int perdure_beside(int on) {
    int before = beside;
    beside = on;
    return before;
}

/* Forget every reading and the skew: an execution begins. */
PUBLIC void perdure_clock_reset(void) {
    atomic_store(&skew, 0);
    for (int number = 0; number < atomic_load(&lanes_used); number++) {
        struct lane *lane = &lanes[number];
        take(lane);
        struct entry *recorded = lane->recorded;
        lane->window = lane->fresh_count = lane->recorded_count = lane->recorded_at = lane->recorded_used = 0;
        lane->last = lane->last_real = 0;
        lane->recorded = NULL;
        give(lane);
        free(recorded);
    }
}

/* Make this thread read in a lane from now on; below 0: in none. Returns 0 if there is no such lane. */
PUBLIC int perdure_clock_enter(int number) {
    if (number < 0) {
        mine = NULL;
        return 1;
    }
    if (number >= LANES)
        return 0;
    struct lane *lane = &lanes[number];
    if (!lane->fresh) {
        void *place = mmap(NULL, ENTRIES * sizeof(struct entry), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (place == MAP_FAILED)
            return 0;
        lane->fresh = place;
        int used = atomic_load(&lanes_used);
        while (used <= number && !atomic_compare_exchange_weak(&lanes_used, &used, number + 1))
            ;
    }
    mine = lane;
    return 1;
}

/* Give a lane, which no thread reads in yet, what it replays. */
PUBLIC int perdure_clock_feed(int number, uint32_t count, const struct entry *entries) {
    struct lane *lane = &lanes[number];
    struct entry *copy = malloc(count * sizeof *copy);
    if (!copy)
        return 0;
    memcpy(copy, entries, count * sizeof *copy);
    take(lane);
    struct entry *before = lane->recorded;
    lane->recorded = copy;
    lane->recorded_count = count;
    lane->recorded_at = lane->recorded_used = 0;
    give(lane);
    free(before);
    return 1;
}

/* A delivery is consumed in this thread: the next window begins. */
PUBLIC void perdure_clock_next(void) {
    struct lane *lane = mine;
    if (!lane)
        return;
    take(lane);
    lane->window++;
    give(lane);
}

/* Forget how far a lane is: another thread is to read in it. */
PUBLIC void perdure_clock_renew(int number) {
    struct lane *lane = &lanes[number];
    take(lane);
    lane->window = 0;
    lane->last = lane->last_real = 0;
    give(lane);
}

/* Take what was read in a lane since the last time; ``entries`` has room for ENTRIES. Returns how many. */
PUBLIC uint32_t perdure_clock_drain(int number, struct entry *entries) {
    struct lane *lane = &lanes[number];
    if (!lane->fresh)
        return 0;
    take(lane);
    uint32_t count = lane->fresh_count;
    memcpy(entries, lane->fresh, count * sizeof *entries);
    lane->fresh_count = 0;
    give(lane);
    return count;
}

/* -- the clock, as libc gives it -------------------------------------------------------------------------------- */

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

PUBLIC int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!real_clock_gettime)
        find_real();
    int failed = real_clock_gettime(clock, out);
    if (failed || !mine || !is_wall(clock))
        return failed;
    int64_t value = reading(out->tv_sec * SECOND + out->tv_nsec);
    out->tv_sec = value / SECOND;
    out->tv_nsec = value % SECOND;
    return 0;
}

PUBLIC int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    if (zone)
        memset(zone, 0, sizeof(struct timezone));
    int64_t value = reading(real_now());
    out->tv_sec = value / SECOND;
    out->tv_usec = value % SECOND / 1000;
    return 0;
}

PUBLIC time_t time(time_t *out) {
    time_t value = reading(real_now()) / SECOND;
    if (out)
        *out = value;
    return value;
}

PUBLIC int timespec_get(struct timespec *out, int base) {
    if (base != TIME_UTC)
        return 0;
    return clock_gettime(CLOCK_REALTIME, out) ? 0 : base;
}

/* -- waiting until a time of that clock: the kernel knows the real one ------------------------------------------- */

static const struct timespec *really(const struct timespec *until, struct timespec *room) {
    struct lane *lane = mine;
    /* A deadline of a monotonic clock is far below: no machine is up for 15 years. */
    if (!lane || !lane->last || !until || !atomic_load(&switched_on) || until->tv_sec < 500000000)
        return until;
    int64_t value = until->tv_sec * SECOND + until->tv_nsec + (lane->last_real - lane->last);
    room->tv_sec = value / SECOND;
    room->tv_nsec = value % SECOND;
    return room;
}

static void *next_function(const char *name) {
    /* Condition variables have an old version beside the one that is linked today. */
    void *found = NULL;
#if defined(__x86_64__)
    if (!strncmp(name, "pthread_cond_", 13))
        found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
#endif
    return found ? found : dlsym(RTLD_NEXT, name);
}

#define REAL(name, type)                                                                                               \
    static __typeof__(type) real;                                                                                      \
    if (!real)                                                                                                         \
        real = (__typeof__(type))next_function(name)

PUBLIC int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    REAL("sem_timedwait", int (*)(sem_t *, const struct timespec *));
    struct timespec room;
    return real(semaphore, really(until, &room));
}

typedef int (*clockwait)(sem_t *, clockid_t, const struct timespec *);
PUBLIC int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until) {
    REAL("sem_clockwait", clockwait);
    struct timespec room;
    return real(semaphore, clock, is_wall(clock) ? really(until, &room) : until);
}

typedef int (*timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
PUBLIC int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                                  const struct timespec *restrict until) {
    REAL("pthread_cond_timedwait", timedwait);
    struct timespec room;
    return real(condition, mutex, really(until, &room));
}

typedef int (*cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
PUBLIC int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                                  const struct timespec *restrict until) {
    REAL("pthread_cond_clockwait", cond_clockwait);
    struct timespec room;
    return real(condition, mutex, clock, is_wall(clock) ? really(until, &room) : until);
}

PUBLIC int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    REAL("pthread_mutex_timedlock", int (*)(pthread_mutex_t *, const struct timespec *));
    struct timespec room;
    return real(mutex, really(until, &room));
}

typedef int (*nanosleeper)(clockid_t, int, const struct timespec *, struct timespec *);
PUBLIC int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    REAL("clock_nanosleep", nanosleeper);
    struct timespec room;
    return real(clock, flags, (flags & TIMER_ABSTIME) && is_wall(clock) ? really(until, &room) : until, left);
}

/* -- entropy: ChaCha20 under the session's key, where C asks the kernel ------------------------------------------ */

static pthread_mutex_t entropy_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t entropy_key[8];
static uint64_t entropy_position, beside_position;
static atomic_int entropy_keyed;

static uint32_t rotated(uint32_t x, int by) { return x << by | x >> (32 - by); }

static void quarter(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    *a += *b, *d = rotated(*d ^ *a, 16);
    *c += *d, *b = rotated(*b ^ *c, 12);
    *a += *b, *d = rotated(*d ^ *a, 8);
    *c += *d, *b = rotated(*b ^ *c, 7);
}

static void chacha_block(uint64_t number, uint32_t stream, uint8_t out[64]) {
    uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    memcpy(start + 4, entropy_key, sizeof entropy_key);
    start[12] = (uint32_t)number;
    start[13] = (uint32_t)(number >> 32);
    start[14] = stream;
    uint32_t x[16];
    memcpy(x, start, sizeof x);
    for (int round = 0; round < 10; round++) {
        for (int column = 0; column < 4; column++)
            quarter(&x[column], &x[4 + column], &x[8 + column], &x[12 + column]);
        for (int column = 0; column < 4; column++)
            quarter(&x[column], &x[4 + (column + 1) % 4], &x[8 + (column + 2) % 4], &x[12 + (column + 3) % 4]);
    }
    for (int word = 0; word < 16; word++) {
        uint32_t sum = x[word] + start[word];
        for (int byte = 0; byte < 4; byte++)
            out[4 * word + byte] = (uint8_t)(sum >> 8 * byte);
    }
}

static void entropy_fill(uint8_t *out, size_t size) {
    uint8_t block[64];
    pthread_mutex_lock(&entropy_lock);
    uint64_t *position = beside ? &beside_position : &entropy_position;
    while (size) {
        size_t from = *position % 64, some = 64 - from < size ? 64 - from : size;
        chacha_block(*position / 64, beside ? 1 : 0, block);
        memcpy(out, block + from, some);
        out += some;
        size -= some;
        *position += some;
    }
    pthread_mutex_unlock(&entropy_lock);
}

/* Draw from a key from now on; without one, from the kernel again. */
PUBLIC void perdure_entropy_key(const uint8_t *key) {
    if (key)
        memcpy(entropy_key, key, sizeof entropy_key);
    atomic_store(&entropy_keyed, key != NULL);
}

PUBLIC uint64_t perdure_entropy_position(void) { return entropy_position; }

PUBLIC void perdure_entropy_seek(uint64_t position) { entropy_position = position; }

PUBLIC ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    if (atomic_load(&entropy_keyed)) {
        entropy_fill(buffer, size);
        return (ssize_t)size;
    }
    REAL("getrandom", ssize_t (*)(void *, size_t, unsigned));
    if (!real) {
        errno = ENOSYS;
        return -1;
    }
    return real(buffer, size, flags);
}

PUBLIC int getentropy(void *buffer, size_t size) {
    if (size > 256) {
        errno = EIO;
        return -1;
    }
    return getrandom(buffer, size, 0) == (ssize_t)size ? 0 : -1;
}

PUBLIC void arc4random_buf(void *buffer, size_t size) {
    if (getrandom(buffer, size, 0) != (ssize_t)size)
        abort();
}

PUBLIC uint32_t arc4random(void) {
    uint32_t value;
    arc4random_buf(&value, sizeof value);
    return value;
}

PUBLIC uint32_t arc4random_uniform(uint32_t bound) {
    if (bound < 2)
        return 0;
    uint32_t least = -bound % bound, value;
    do
        value = arc4random();
    while (value < least);
    return value % bound;
}

/* -- directories: read whole at the first look, and given by name ------------------------------------------------- */

struct listing {
    struct listing *next;
    DIR *directory;
    size_t count, at;
    int error;
    struct dirent64 **entries;
};

static pthread_mutex_t listings_lock = PTHREAD_MUTEX_INITIALIZER;
static struct listing *listings;
static atomic_int sorting;

/* Give the entries of directories by name from now on. */
PUBLIC void perdure_sort_directories(int on) { atomic_store(&sorting, on); }

static int by_name(const void *a, const void *b) {
    return strcmp((*(struct dirent64 *const *)a)->d_name, (*(struct dirent64 *const *)b)->d_name);
}

static struct listing *listing_of(DIR *directory, int taken) {
    pthread_mutex_lock(&listings_lock);
    struct listing **place = &listings;
    while (*place && (*place)->directory != directory)
        place = &(*place)->next;
    struct listing *found = *place;
    if (found && taken)
        *place = found->next;
    pthread_mutex_unlock(&listings_lock);
    return found;
}

static void drop(struct listing *listing) {
    if (!listing)
        return;
    for (size_t each = 0; each < listing->count; each++)
        free(listing->entries[each]);
    free(listing->entries);
    free(listing);
}

static struct listing *read_all(DIR *directory) {
    REAL("readdir64", struct dirent64 *(*)(DIR *));
    struct listing *listing = calloc(1, sizeof *listing);
    size_t room = 0;
    if (!listing)
        return NULL;
    listing->directory = directory;
    for (;;) {
        errno = 0;
        struct dirent64 *entry = real(directory);
        if (!entry) {
            listing->error = errno;
            break;
        }
        if (listing->count == room) {
            size_t more = room ? 2 * room : 64;
            struct dirent64 **grown = realloc(listing->entries, more * sizeof *grown);
            if (!grown) {
                listing->error = ENOMEM;
                break;
            }
            listing->entries = grown;
            room = more;
        }
        struct dirent64 *copy = malloc(entry->d_reclen);
        if (!copy) {
            listing->error = ENOMEM;
            break;
        }
        memcpy(copy, entry, entry->d_reclen);
        listing->entries[listing->count++] = copy;
    }
    if (listing->count)
        qsort(listing->entries, listing->count, sizeof *listing->entries, by_name);
    pthread_mutex_lock(&listings_lock);
    listing->next = listings;
    listings = listing;
    pthread_mutex_unlock(&listings_lock);
    return listing;
}

PUBLIC struct dirent64 *readdir64(DIR *directory) {
    struct listing *listing = listing_of(directory, 0);
    if (!listing && !atomic_load(&sorting)) {
        REAL("readdir64", struct dirent64 *(*)(DIR *));
        return real(directory);
    }
    int before = errno;
    if (!listing && !(listing = read_all(directory))) {
        errno = ENOMEM;
        return NULL;
    }
    errno = before;
    if (listing->at < listing->count)
        return listing->entries[listing->at++];
    if (listing->error)
        errno = listing->error;
    return NULL;
}

#if __SIZEOF_LONG__ == 8
PUBLIC struct dirent *readdir(DIR *directory) { return (struct dirent *)readdir64(directory); }
#endif

PUBLIC int closedir(DIR *directory) {
    REAL("closedir", int (*)(DIR *));
    drop(listing_of(directory, 1));
    return real(directory);
}

PUBLIC void rewinddir(DIR *directory) {
    REAL("rewinddir", void (*)(DIR *));
    drop(listing_of(directory, 1));
    real(directory);
}

PUBLIC long telldir(DIR *directory) {
    REAL("telldir", long (*)(DIR *));
    struct listing *listing = listing_of(directory, 0);
    return listing ? (long)listing->at : real(directory);
}

PUBLIC void seekdir(DIR *directory, long at) {
    REAL("seekdir", void (*)(DIR *, long));
    struct listing *listing = listing_of(directory, 0);
    if (!listing)
        real(directory, at);
    else if (at >= 0 && (size_t)at <= listing->count)
        listing->at = (size_t)at;
}
