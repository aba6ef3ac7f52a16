/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the driver qcow2: images that somebody has tampered with are opened, used,
 * checked, mended and opened again. qcow2-input.h has the form of inputs, and
 * qcow2-session.h what must be true.
 */
#include "qcow2-session.h"

static const char *const bases[] = {
    "plain",        "version-2",    "refcounts-1",   "refcounts-64",
    "preallocated", "zlib",         "zstd",          "discarded",
    "snapshot",     "snapshots-v2", "snapshot-zlib", "odd-length",
    "lazy",         "backing",      "bitmaps",       NULL,
};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed)
{
    return qcow2_input_mutate(bases, SESSION_STEPS + 1, data, size, max_size,
                              seed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Session session;
    Qcow2Input input;
    unsigned i;

    fuzz_quiet();
    qcow2_input_parse(&input, bases, data, size);
    if (session_start(&session, &input)) {
        for (i = 0; session.bs && i < input.n_steps; i++) {
            input.steps[i].what %= SESSION_STEPS + 1;
            session_step(&session, &input.steps[i]);
        }
        session_end(&session);
    }
    qcow2_input_clear(&input);
    return 0;
}
