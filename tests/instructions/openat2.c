/*
 * Preloaded into a node that runs under valgrind, whose older releases answer openat2(2) with
 * ENOSYS: does it as openat(2). What resolution is forbidden is not looked at, since in the test
 * nothing is forbidden and everything is cached.
 *
 * A disk thread pauses before it: by then the loop sleeps, and the two always meet in one order.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The node makes the call through this function of the C library, as it does a few others. */
long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long a[6];
	va_list rest;

	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(rest, long);
	va_end(rest);
	if (number == SYS_openat2) {
		const struct open_how *how = (const struct open_how *)a[2];
		if (gettid() != getpid())
			usleep(1000);
		return openat((int)a[0], (const char *)a[1], (int)how->flags, (mode_t)how->mode);
	}
	if (!real)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
