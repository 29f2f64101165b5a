/* Prints offsets and sizes that the Go side must agree with, one "name value" a line. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "cpactive.h"

#define SHOW(name, value) printf("%s %zu\n", name, (size_t)(value))

int main(void)
{
	SHOW("record.pid", offsetof(struct record, pid));
	SHOW("record.name", offsetof(struct record, name));
	SHOW("record.timeout", offsetof(struct record, timeout));
	SHOW("record.token", offsetof(struct record, atime));
	SHOW("record.size", sizeof(struct record));
	SHOW("name.size", sizeof(((struct record *)0)->name));
	SHOW("sem.otime", offsetof(struct semid_ds, sem_otime));
	SHOW("sem.ctime", offsetof(struct semid_ds, sem_ctime));
	SHOW("sem.nsems", offsetof(struct semid_ds, sem_nsems));
	SHOW("sem.size", sizeof(struct semid_ds));
	SHOW("GETPID", GETPID);
	SHOW("GETVAL", GETVAL);
	SHOW("GETNCNT", GETNCNT);
	SHOW("SETVAL", SETVAL);
	SHOW("SEM_UNDO", SEM_UNDO);
	SHOW("SHM_DEST", SHM_DEST);
	return 0;
}
