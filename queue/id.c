/*
 * How: one atomic number, shared by all threads that accept mail. The text form is Crockford's
 * base32: no letters that look like digits, any case on input.
 */
#include "queue/queue_impl.h"

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

uint64_t
queue_id_new(struct queue *queue, msec_t now)
{
    uint64_t floor = now <= 0 ? 0 : (uint64_t)now << 16;
    uint64_t last = atomic_load_explicit(&queue->last_id, memory_order_relaxed), id;
    do {
        id = last + 1 > floor ? last + 1 : floor;
    } while (!atomic_compare_exchange_weak_explicit(&queue->last_id, &last, id,
                                                    memory_order_relaxed, memory_order_relaxed));
    return id;
}

msec_t
queue_id_moment(uint64_t id)
{
    return (msec_t)(id >> 16);
}

char *
queue_id_format(uint64_t id, char buf[static QUEUE_ID_TEXT + 1])
{
    for (int i = QUEUE_ID_TEXT - 1; i >= 0; i--, id >>= 5)
        buf[i] = digits[id & 31];
    buf[QUEUE_ID_TEXT] = '\0';
    return buf;
}

static int
digit_value(char c)
{
    char upper = c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
    if (upper == 'O')
        return 0;
    if (upper == 'I' || upper == 'L')
        return 1;
    const char *at = upper == '\0' ? NULL : strchr(digits, upper);
    return at == NULL ? -1 : (int)(at - digits);
}

bool
queue_id_parse(struct span text, uint64_t *ret_id)
{
    uint64_t id = 0;
    if (text.n > QUEUE_ID_TEXT + 1 && text.p[text.n - QUEUE_ID_TEXT - 1] == '.')
        text = span_from(text, text.n - QUEUE_ID_TEXT);
    if (text.n != QUEUE_ID_TEXT || digit_value(text.p[0]) > 15)
        return false; /* 13 digits are 65 bits */
    for (size_t i = 0; i < text.n; i++) {
        int v = digit_value(text.p[i]);
        if (v < 0)
            return false;
        id = id << 5 | (uint64_t)v;
    }
    *ret_id = id;
    return true;
}
