/* Text output for a program without a libc. */
#ifndef FERRY_TEXT_H
#define FERRY_TEXT_H

#include "kernel.h"

struct text {
    char bytes[480];
    size_t length;
};

static inline void text_put(struct text *t, const char *s) {
    while (*s && t->length < sizeof t->bytes) t->bytes[t->length++] = *s++;
}

static inline void text_number(struct text *t, uint64_t value, unsigned base) {
    char digits[24];
    int n = 0;
    do {
        unsigned d = (unsigned)(value % base);
        digits[n++] = (char)(d < 10 ? '0' + d : 'a' + d - 10);
        value /= base;
    } while (value);
    if (base == 16) text_put(t, "0x");
    while (n > 0 && t->length < sizeof t->bytes) t->bytes[t->length++] = digits[--n];
}

static inline void text_signed(struct text *t, int64_t value) {
    if (value < 0) {
        text_put(t, "-");
        text_number(t, (uint64_t)-value, 10);
    } else {
        text_number(t, (uint64_t)value, 10);
    }
}

static inline void text_write(struct text *t, int fd) {
    size_t done = 0;
    while (done < t->length) {
        long n = sc(__NR_write, (uint64_t)fd, (uint64_t)(t->bytes + done), t->length - done, 0, 0);
        if (n <= 0 && n != -E_INTR) break;
        if (n > 0) done += (size_t)n;
    }
    t->length = 0;
}

#endif
