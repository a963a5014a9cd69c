/* Outcomes that are kept: whole again when recalled, in no more memory than their text needs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/outcome.h"

static void
assert_kept(const struct outcome *o)
{
    struct outcome_kept *kept = outcome_keep(o);
    struct outcome back;

    memset(&back, 0xff, sizeof(back));
    outcome_recall(kept, &back);
    assert_int_equal(back.kind, o->kind);
    assert_int_equal(back.origin, o->origin);
    assert_ptr_equal(back.phase, o->phase);
    assert_int_equal(back.code, o->code);
    assert_memory_equal(&back.enh, &o->enh, sizeof(o->enh));
    assert_int_equal(back.path, o->path);
    assert_int_equal(back.maybe_twice, o->maybe_twice);
    assert_int_equal(back.greylisted, o->greylisted);
    assert_string_equal(back.text, o->text);
    assert_string_equal(outcome_kept_text(kept), o->text);
    assert_true(malloc_usable_size(kept) < strlen(o->text) + 100);
    free(kept);
}

static void
kept_and_recalled(void **state)
{
    struct outcome o;
    (void)state;

    outcome_set(&o, OUTCOME_FAILED, ORIGIN_PEER, "rcpt", "5.7.1", "%s", "refused: who are you?");
    o.code = 554;
    o.path = o.greylisted = true;
    assert_kept(&o);
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, "connect", NULL, "%s", "");
    o.maybe_twice = true;
    assert_kept(&o);
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_TLS, "starttls", "4.7.4", "%*s", OUTCOME_TEXT_MAX,
                "x");
    assert_int_equal(strlen(o.text), OUTCOME_TEXT_MAX);
    assert_kept(&o);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept_and_recalled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
