/* The cpactive table as its clients have it. Written from the layout, see ../doc.go. */
#ifndef CPACTIVE_H
#define CPACTIVE_H

#include <time.h>

#define TABLE_KEY 0x5095
#define TABLE_RECORDS 1000

struct record {
	int pid;
	char name[51];
	int timeout; /* seconds */
	time_t atime;
};

#endif
