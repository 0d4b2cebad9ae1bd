// Stops every thread of a process tree with ptrace, as a dump does, holds them for some
// milliseconds, lets them go, and does nothing else: what a program notices of it, the kernel did.
// Usage: freeze PID MILLISECONDS
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TASKS_MAX = 65536 };

static pid_t held[TASKS_MAX];
static int pending[TASKS_MAX]; // a signal whose delivery the stop interrupted, 0 if none
static size_t held_count;

static bool is_held(pid_t tid) {
    for (size_t i = 0; i < held_count; i++) {
        if (held[i] == tid) {
            return true;
        }
    }
    return false;
}

static void hold(pid_t tid) {
    if (held_count == TASKS_MAX || ptrace(PTRACE_SEIZE, tid, 0, 0) != 0) {
        return; // it ended meanwhile, or it is a zombie
    }
    int status;
    ptrace(PTRACE_INTERRUPT, tid, 0, 0);
    if (waitpid(tid, &status, __WALL) != tid) {
        fprintf(stderr, "freeze: cannot wait for %d: %s\n", tid, strerror(errno));
        exit(1);
    }
    // A stop without an event is one before the delivery of a signal, ptrace(2).
    pending[held_count] = WIFSTOPPED(status) && status >> 16 == 0 ? WSTOPSIG(status) : 0;
    held[held_count++] = tid;
}

/// Holds every thread of the process and of its children; true when one of them was new.
static bool hold_process(pid_t pid) {
    char path[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL) {
        return false;
    }
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        pid_t tid = atoi(entry->d_name), child;
        if (tid == 0) {
            continue;
        }
        if (!is_held(tid)) {
            hold(tid);
            found = true;
        }
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, tid);
        FILE *children = fopen(path, "r");
        while (children != NULL && fscanf(children, "%d", &child) == 1) {
            found |= hold_process(child);
        }
        if (children != NULL) {
            fclose(children);
        }
    }
    closedir(tasks);
    return found;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s PID MILLISECONDS\n", argv[0]);
        return 2;
    }
    // A zombie cannot be seized and would look new forever, hence the bound.
    for (int round = 0; round < 10 && hold_process(atoi(argv[1])); round++) {
    }
    usleep((useconds_t)atoi(argv[2]) * 1000);
    for (size_t i = 0; i < held_count; i++) {
        ptrace(PTRACE_DETACH, held[i], 0, pending[i]);
    }
    printf("held %zu threads\n", held_count);
    return held_count > 0 ? 0 : 1;
}
