/* Any bytes as a file of reply rules: read, or refused with a reason; what is read is used. */
#include "policy/classify.h"
#include "policy/config_load.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct classify_rules *rules = classify_rules_new();
    struct config_problems problems = {.n = 0};
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;

    strbuf_add_str(&text, n > 0 && bytes[0] == '-' ? "rules:\n" : "");
    strbuf_add(&text, bytes, n);
    bool fine = classify_rules_parse(rules, strbuf_span(&text), "fuzz", &problems);
    CHECK(fine == (problems.n_errors == 0));
    CHECK(classify_rules_count(rules) <= CLASSIFY_RULES_MAX);
    struct classify_verdict v = classify_text(rules, SPAN("550 5.7.1 blocked by xx.example"),
                                              REPLY_STAGE_RCPT, SPAN("mx.qq.com"));
    CHECK(v.klass < REPLY_CLASS__COUNT && v.rule != NULL);
    config_problems_release(&problems);
    classify_rules_free(rules);
    return 0;
}
