/*
 * fuzz_classify - any octets as a reply to the built-in rules; those that look like YAML also as
 * rules. The first octet chooses the stage.
 */
#include <assert.h>

#include "policy/classify.h"
#include "policy/config_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct classify_rules *
builtin(void)
{
    static struct classify_rules *rules;
    if (rules == NULL) {
        struct config_problems problems = {0};
        rules = classify_rules_new();
        bool fine = classify_rules_parse(rules, classify_builtin_text(), "builtin", &problems);
        assert(fine);
        config_problems_release(&problems);
    }
    return rules;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    struct span text = span_of(data + 1, n - 1);
    struct classify_verdict v =
        classify_text(builtin(), text, data[0] % REPLY_STAGE__COUNT, SPAN("mx.qq.com"));
    assert(v.klass < REPLY_CLASS__COUNT && v.rule != NULL);
    assert((v.klass == REPLY_OK_NOT_BOUNCE) == (v.action == REPLY_ACTION_NONE));

    if (span_starts(text, SPAN("rules"))) {
        struct config_problems problems = {0};
        struct classify_rules *rules = classify_rules_new();
        bool fine = classify_rules_parse(rules, text, "fuzz", &problems);
        assert(fine == (problems.n_errors == 0));
        config_problems_release(&problems);
        classify_rules_free(rules);
    }
    return 0;
}
