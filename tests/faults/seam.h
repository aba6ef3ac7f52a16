/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls that fail when they are told to. The linker puts functions of
 * seam*.c in place of the wrappers that the block layer calls (--wrap, see
 * meson.build). Calls are counted while the seam is open, by any thread, and
 * those whose turn it is fail, stop short, or say so though they did what they
 * were asked for.
 */
#ifndef TESTS_FAULTS_SEAM_H
#define TESTS_FAULTS_SEAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum FaultKind {
    FAULT_FAIL,   /* nothing is done, and it fails */
    FAULT_ALWAYS, /* the same, and all that follow and do the same to the file */
    FAULT_AFTER,  /* all is done, and it fails */
    FAULT_PARTLY,  /* one half is done, and it fails */
    FAULT_SHORT,   /* one half is done, and it says so */
    FAULT_NOTHING, /* of a transfer: 0 bytes, and no error, from then on */
} FaultKind;

/* "fail", "always", ... NULL-terminated */
extern const char *const fault_kind_names[];

/* One call that was counted */
typedef struct SeamCall {
    const char *name;   /* of the wrapper */
    const char *detail; /* which ioctl, which mode of fallocate, ...; or "" */
    void *site;         /* where it returns to */
    dev_t dev;          /* of the file: 0 if there is none */
    ino_t ino;
    bool durable; /* a write with RWF_DSYNC */
} SeamCall;

/* What is to happen to one call, and whether it has */
typedef struct Fault {
    int after; /* calls that go well before, since the one that failed last */
    FaultKind kind;
    int err; /* of SHORT and NOTHING: 0 */
    bool hit;
    SeamCall call;
} Fault;

#define SEAM_MAX_FAULTS 2

/* Forget all that was counted; @n faults are to come, one after the other. */
void seam_reset(const Fault *faults, int n);
/* From open to shut calls are counted. */
void seam_open(void);
void seam_shut(void);
bool seam_is_open(void);
/* Faults that have come so far; and the one @i of them */
int seam_hits(void);
const Fault *seam_hit(int i);
/* Does it come over all that is the same to the same file? Until seam_heal(). */
bool fault_lasts(const Fault *f);
void seam_heal(void);
/* Calls counted so far, and what they were */
int seam_count(void);
const SeamCall *seam_call(int i);

/* From now on fdatasync() and fsync() do what they say. By default they only
 * say that they did: what is tested here no crash can tell. */
void seam_sync_for_real(void);

/*
 * The driver looks at all loop devices of the machine: those of others come and go,
 * and do not count. This one does. Before this is called, there are none.
 */
void seam_set_loop_device(dev_t dev);

/*
 * For the wrappers: counts a call. NULL, or what is to happen to it. errno is
 * set to what it fails with.
 */
const Fault *seam_meet(const char *name, const char *detail, int fd,
                       bool durable, void *site);
/* Is there any that counts? */
bool seam_has_loop_device(void);
/* Is this somebody else's loop device? Calls on what is open are known to be. */
bool seam_is_foreign(const char *path);
/* Shall a sync that does not fail do anything? */
bool seam_syncs(void);

#endif
