/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between run.c and op.c */
#ifndef TESTS_FAULTS_RUN_INT_H
#define TESTS_FAULTS_RUN_INT_H

#include "run.h"

/* What is being done, for messages */
const char *op_what(void);
/* A new run */
void op_reset(void);

#endif
