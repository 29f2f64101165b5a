/*
 * What procctl, the scheduler of old sites, hands on to what it starts: signals 1 to 63 ignored, descriptors 0 to 63
 * closed, no session of its own.
 *
 *	procctl PROGRAM ARGS...
 *
 * It goes to the background, runs PROGRAM once and ends with it; the real one would start it again.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int i;

	if (argc < 2) {
		fprintf(stderr, "usage: procctl PROGRAM ARGS...\n");
		return 64;
	}
	if (fork() != 0)
		return 0;
	for (i = 1; i < 64; i++)
		signal(i, SIG_IGN);
	for (i = 0; i < 64; i++)
		close(i);
	signal(SIGCHLD, SIG_DFL); /* else wait would not see the end */
	if (fork() == 0) {
		signal(SIGCHLD, SIG_IGN);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	wait(NULL);
	return 0;
}
