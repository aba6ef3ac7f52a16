/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest feels of its disk and its timers. Runs in the guest, as the only
 * program there (guest.py compiles it, statically).
 *
 *   guest-latency DEVICE READ-US WRITE-US ZERO-US
 *
 * One thread each: 4 KiB O_DIRECT reads at random every READ-US microseconds;
 * writes at random every WRITE-US, to the first 16th of the disk; and every
 * ZERO-US 4 KiB at random in the last 16th are zeroed (BLKZEROOUT) and then
 * written, as file systems do with what they had preallocated (0: none of the
 * kind). One request of each at a time; one that is late is not made up for. And
 * one thread with a timer every millisecond, which notes how late it is woken.
 *
 * Says "running" and goes on until a line comes on stdin. Says "stopped" then,
 * and only now, as printing costs time, all that was noted, one line each:
 *
 *   KIND AT LASTED
 *
 * KIND is R, W, Z or T; AT is when the request was to be made, or the timer was due,
 * in microseconds since "running" was said; LASTED is how many microseconds later
 * it was done: who stands still cannot even ask. The last line is "end", with the
 * number of microseconds between the two words.
 * DEVICE may be a file, to try the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define TIMER_US 1000
/* Of each kind; 100 s of timers */
#define MAX_NOTES 100000

typedef struct Note {
    uint32_t at, lasted;
} Note;

typedef struct Worker {
    char kind;
    int64_t interval; /* us */
    uint64_t first, blocks;
    uint64_t seed;
    void *buf;
    pthread_t thread;
    unsigned n;
    Note notes[MAX_NOTES];
} Worker;

static int fd;
static bool is_device;
static int64_t start;
static bool stopping;

static Worker workers[] = {
    { .kind = 'R' }, { .kind = 'W' }, { .kind = 'Z' }, { .kind = 'T' }
};

static void die(const char *what)
{
    fprintf(stderr, "guest-latency: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static void sleep_until(int64_t us)
{
    struct timespec ts = { us / 1000000, us % 1000000 * 1000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) ==
           EINTR) {
    }
}

/* splitmix64 */
static uint64_t chance(Worker *w)
{
    uint64_t z = w->seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void zero_block(uint64_t offset)
{
    uint64_t range[2] = { offset, BLOCK };

    if (is_device ? ioctl(fd, BLKZEROOUT, range)
                  : fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              offset, BLOCK)) {
        die("zero");
    }
}

static void write_block(Worker *w, uint64_t offset)
{
    memcpy(w->buf, &offset, sizeof(offset));
    if (pwrite(fd, w->buf, BLOCK, offset) != BLOCK) {
        die("write");
    }
}

static void request(Worker *w)
{
    uint64_t offset = (w->first + chance(w) % w->blocks) * BLOCK;

    switch (w->kind) {
    case 'R':
        if (pread(fd, w->buf, BLOCK, offset) != BLOCK) {
            die("read");
        }
        break;
    case 'W':
        write_block(w, offset);
        break;
    case 'Z':
        zero_block(offset);
        write_block(w, offset);
        break;
    }
}

static void *work(void *opaque)
{
    Worker *w = opaque;
    int64_t due = start, now;

    while (w->n < MAX_NOTES) {
        now = now_us();
        due = MAX(due + w->interval, now);
        sleep_until(due);
        if (__atomic_load_n(&stopping, __ATOMIC_RELAXED)) {
            break;
        }
        request(w);
        w->notes[w->n].at = due - start;
        w->notes[w->n++].lasted = now_us() - due;
    }
    return NULL;
}

/* The thread of timers goes before all others: it only looks at the clock. */
static void start_worker(Worker *w)
{
    struct sched_param param = { .sched_priority = 1 };
    int err = pthread_create(&w->thread, NULL, work, w);

    if (err) {
        errno = err;
        die("thread");
    }
    if (w->kind == 'T') {
        pthread_setschedparam(w->thread, SCHED_FIFO, &param);
    }
}

static uint64_t open_disk(const char *name)
{
    struct stat st;
    uint64_t size;

    fd = open(name, O_RDWR | O_DIRECT);
    if (fd < 0 && errno == EINVAL) {
        fd = open(name, O_RDWR);
    }
    if (fd < 0 || fstat(fd, &st) < 0) {
        die(name);
    }
    is_device = S_ISBLK(st.st_mode);
    size = st.st_size;
    if (is_device && ioctl(fd, BLKGETSIZE64, &size) < 0) {
        die(name);
    }
    return size / BLOCK;
}

int main(int argc, char **argv)
{
    unsigned i, k, n = sizeof(workers) / sizeof(workers[0]);
    uint64_t blocks, part;
    int64_t lasted;
    char line[80];

    if (argc != 5) {
        fprintf(stderr, "usage: guest-latency DEVICE READ-US WRITE-US "
                        "ZERO-US\n");
        return 1;
    }
    blocks = open_disk(argv[1]);
    part = blocks / 16;
    if (part == 0) {
        errno = ENOSPC;
        die(argv[1]);
    }
    for (i = 0; i < n; i++) {
        Worker *w = &workers[i];

        w->interval = w->kind == 'T' ? TIMER_US : atoi(argv[2 + i]);
        w->first = w->kind == 'Z' ? blocks - part : 0;
        w->blocks = w->kind == 'R' ? blocks : part;
        w->seed = i;
        /* pages are touched now, not while time is taken */
        memset(w->notes, 1, sizeof(w->notes));
        if (posix_memalign(&w->buf, BLOCK, BLOCK)) {
            die("memory");
        }
        memset(w->buf, 0x5a, BLOCK);
    }
    printf("running\n");
    fflush(stdout);
    start = now_us();
    for (i = 0; i < n; i++) {
        if (workers[i].interval > 0) {
            start_worker(&workers[i]);
        }
    }
    if (!fgets(line, sizeof(line), stdin)) {
        die("stdin");
    }
    lasted = now_us() - start;
    printf("stopped\n");
    fflush(stdout);
    __atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
    for (i = 0; i < n; i++) {
        if (workers[i].interval > 0) {
            pthread_join(workers[i].thread, NULL);
        }
        for (k = 0; k < workers[i].n; k++) {
            printf("%c %u %u\n", workers[i].kind, workers[i].notes[k].at,
                   workers[i].notes[k].lasted);
        }
    }
    printf("end %lld\n", (long long)lasted);
    return 0;
}
