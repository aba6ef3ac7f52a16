/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The actions of transactions: a table of drivers a subject */
#ifndef MONITOR_QMP_TRANSACTION_H
#define MONITOR_QMP_TRANSACTION_H

#include "block/transaction.h"

extern const TransactionActionDriver backup_actions[];
extern const TransactionActionDriver snapshot_actions[];
extern const TransactionActionDriver bitmap_actions[];

#endif
