/* Address spaces whose pages are still elsewhere, each behind a userfaultfd of its own, and the sources that they are
 * to come from. A source is the memory of one process as it was when it stood still; a space is a process that runs on
 * from it, or a child of such a process. A page is known by its address at the source, wherever mremap(2) has put it. */
#ifndef FERRY_SPACES_H
#define FERRY_SPACES_H

#include <sys/types.h>

#include "page-set.h"

struct page_range {
    uint64_t start;
    uint64_t end;
};

struct source {
    uint32_t pid;            /* as numbered in the container */
    struct page_set left;    /* has not come yet */
    struct page_set asked;   /* somebody was asked for it */
    struct page_set urgent;  /* ... because a thread waits */
    struct page_range *runs; /* what there was to come, ascending */
    size_t run_count;
    size_t run;              /* the background is at this one, */
    uint64_t at;             /* and at this page */
    struct source *next;
};

/* A thread that waits for a page, or several. */
struct fault {
    uint64_t address;
    uint64_t since_us;
    bool asked; /* its page is on its way */
    bool settled;
};

struct space {
    int fd;
    struct source *source;
    struct page_set owed; /* by address at the source */
    struct page_map to;   /* pages that were moved: from the address at the source to where they are now, */
    struct page_map from; /* and back */
    struct fault *faults;
    size_t fault_count, fault_room;
    bool gone;
    struct space *next;
};

struct figures {
    uint64_t pages_left;
    uint64_t faults;         /* of threads that had to wait for a page of a source */
    uint64_t longest_us;     /* the longest wait of a thread */
    uint64_t pages_wanted;   /* came because somebody waited */
    uint64_t pages_pushed;   /* came by themselves */
    uint64_t pages_dropped;  /* nobody needed any more */
    uint64_t spaces;
};

struct state {
    struct space *spaces;
    struct source *sources;
    struct figures figures;
    int epoll;
    /* Pages [address, address + pages) of `pid` are wanted now. */
    void (*want)(uint32_t pid, uint64_t address, uint32_t pages);
};

/* Takes descriptor `remote` of process `host_pid`, a new userfaultfd, and has it tell of pages missing in `ranges`, of
 * which those in `owed` are to come. 0, or an errno with the name of what failed in `failed`. */
int space_add(struct state *s, pid_t host_pid, int remote, uint32_t pid, const struct page_range *ranges,
              size_t range_count, const struct page_range *owed, size_t owed_count, const char **failed);

/* Reads what a userfaultfd tells, and settles it as far as that can be done at once. */
void space_serve(struct state *s, struct space *space);

/* Puts pages that have come where they are missing. */
void source_came(struct state *s, struct source *source, uint64_t address, uint32_t pages, const uint8_t *content);

struct source *source_of(struct state *s, uint32_t pid);

/* The next pages to ask for when nobody waits, at most `most`; false when all have been asked for. */
bool next_range(struct state *s, uint32_t most, uint32_t *pid, uint64_t *address, uint32_t *pages);

/* Forgets what was asked for, and asks again for what threads wait for. */
void ask_again(struct state *s);

/* Lets go of spaces that have ended. */
void sweep(struct state *s);

uint64_t pages_left(const struct state *s);

/* Nothing is missing any more: takes the userfaultfds away. */
void spaces_end(struct state *s);

uint64_t now_us(void);

#endif
