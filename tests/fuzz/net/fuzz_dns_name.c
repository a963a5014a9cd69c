/*
 * Names to ask DNS for, as they come from envelopes and configurations: a canonical name is its own
 * canonical form, makes a question that c-ares reads as the same name, and whose answer we know.
 */
#include "relayd/net/dns_wire.h"
#include "tests/fuzz/check.h"

#include <ares.h>

/* The name in a question, read by somebody else. */
static void
check_question(const uint8_t *question, size_t n, const char *name)
{
    char *text = NULL;
    long used = 0;

    int status = ares_expand_name(question + 12, question, (int)n, &text, &used);
    if (status == ARES_ENOMEM)
        return;
    CHECK(status == ARES_SUCCESS);
    CHECK(12 + (size_t)used + 4 <= n);
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == strlen(name))
        CHECK(strcmp(text, name) == 0); /* c-ares writes other octets in its own way */
    ares_free_string(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *name = xstrndup((const char *)bytes, n);
    char canonical[DNS_NAME_BYTES], again[DNS_NAME_BYTES];
    uint8_t question[DNS_QUESTION_BYTES];
    struct dns_found *found = NULL;
    int rcode;

    if (!dns_name_canonical(name, canonical))
        return 0;
    CHECK(dns_name_canonical(canonical, again) && strcmp(canonical, again) == 0);
    for (const char *p = canonical; *p != '\0'; p++)
        CHECK(*p > 32 && *p < 127 && !(*p >= 'A' && *p <= 'Z'));
    size_t size = dns_question(question, 7, canonical, DNS_MX, (n & 1) != 0);
    CHECK(size <= sizeof question);
    check_question(question, size, canonical);
    question[2] |= 0x80;
    enum dns_walk walk = dns_walk(span_of(question, size), canonical, DNS_MX, &found, &rcode);
    CHECK(walk == DNS_WALK_ANSWER && found->status == DNS_NODATA);
    free(found);
    return 0;
}
