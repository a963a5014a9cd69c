/* The hash map, against the plainest model there is, and SipHash against its reference vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/map.h"
#include "policy/base/mem.h"

static void
siphash_gives_known_values(void **state)
{
    (void)state;
    /* Key 00..0f, input 00, 00 01, ...: made with the reference implementation, SipHash-1-3. */
    static const uint64_t expected[] = {
        0xabac0158050fc4dcu, 0xc9f49bf37d57ca93u, 0x82cb9b024dc7d44du, 0x8bf80ab8e7ddf7fbu,
        0xcf75576088d38328u, 0xdef9d52f49533b67u, 0xc50d2b50c59f22a7u, 0xd3927d989bb11140u,
        0x369095118d299a8eu, 0x25a48eb36c063de4u,
    };
    struct map_seed seed = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    char input[16];
    for (size_t i = 0; i < sizeof(input); i++)
        input[i] = (char)i;
    for (size_t n = 0; n < N_ELEMENTS(expected); n++)
        assert_true(map_hash(seed, span_of(input, n)) == expected[n]);
}

static void
an_empty_map_answers(void **state)
{
    (void)state;
    struct map map;
    map_init(&map, (struct map_seed){1, 2});
    size_t pos = 0;
    assert_null(map_get(&map, SPAN("a")));
    assert_null(map_remove(&map, SPAN("a")));
    assert_false(map_next(&map, &pos, NULL, NULL));
    map_release(&map);
    map_release(&map);
}

static void
putting_again_replaces_value_and_key(void **state)
{
    (void)state;
    struct map map;
    map_init(&map, (struct map_seed){1, 2});
    char *one = xstrdup("key"), *two = xstrdup("key");
    assert_null(map_put(&map, span_str(one), one));
    assert_ptr_equal(map_put(&map, span_str(two), two), one);
    free(one); /* the map does not look at it any more */
    assert_ptr_equal(map_get(&map, SPAN("key")), two);
    assert_int_equal(map.n, 1);
    assert_ptr_equal(map_remove(&map, SPAN("key")), two);
    assert_null(map_get(&map, SPAN("key")));
    assert_int_equal(map.n, 0);
    free(two);
    map_release(&map);
}

static void
keys_may_be_empty_or_hold_nul(void **state)
{
    (void)state;
    struct map map;
    int a, b, c;
    map_init(&map, (struct map_seed){3, 4});
    assert_null(map_put(&map, SPAN_NONE, &a));
    assert_null(map_put(&map, span_of("\0", 1), &b));
    assert_null(map_put(&map, span_of("\0\0", 2), &c));
    assert_ptr_equal(map_get(&map, SPAN("")), &a);
    assert_ptr_equal(map_get(&map, span_of("\0", 1)), &b);
    assert_ptr_equal(map_get(&map, span_of("\0\0", 2)), &c);
    map_release(&map);
}

enum { N_KEYS = 1000 };

static char keys[N_KEYS][12];
static void *model[N_KEYS];

static void
check_against_model(const struct map *map)
{
    size_t n = 0;
    for (size_t i = 0; i < N_KEYS; i++) {
        assert_ptr_equal(map_get(map, span_str(keys[i])), model[i]);
        n += model[i] != NULL;
    }
    assert_int_equal(map->n, n);
    struct span key;
    void *value;
    for (size_t pos = 0; map_next(map, &pos, &key, &value); n--)
        assert_ptr_equal(map_get(map, key), value);
    assert_int_equal(n, 0);
}

static void
a_long_random_run_agrees_with_a_model(void **state)
{
    (void)state;
    struct map map;
    map_init(&map, (struct map_seed){5, 6});
    for (size_t i = 0; i < N_KEYS; i++)
        snprintf(keys[i], sizeof(keys[i]), "k%zu", i);
    uint64_t random = 88172645463325252u;
    for (size_t round = 0; round < 60000; round++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        size_t i = random % N_KEYS;
        void *value = &keys[(random >> 20) % N_KEYS];
        if ((random >> 40) % 2 == 0) {
            assert_ptr_equal(map_put(&map, span_str(keys[i]), value), model[i]);
            model[i] = value;
        } else {
            assert_ptr_equal(map_remove(&map, span_str(keys[i])), model[i]);
            model[i] = NULL;
        }
        if (round % 1000 == 0)
            check_against_model(&map);
    }
    check_against_model(&map);
    map_release(&map);
}

static void
entries_can_be_removed_on_a_walk(void **state)
{
    (void)state;
    for (size_t n = 1; n < 60; n++) {
        struct map map;
        map_init(&map, (struct map_seed){n, n});
        for (size_t i = 0; i < n; i++) {
            snprintf(keys[i], sizeof(keys[i]), "k%zu", i);
            assert_null(map_put(&map, span_str(keys[i]), keys[i]));
        }
        struct span key;
        size_t pos = 0;
        while (map_next(&map, &pos, &key, NULL)) {
            assert_non_null(map_remove(&map, key));
            pos--;
        }
        assert_int_equal(map.n, 0);
        map_release(&map);
    }
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(siphash_gives_known_values),
        cmocka_unit_test(an_empty_map_answers),
        cmocka_unit_test(putting_again_replaces_value_and_key),
        cmocka_unit_test(keys_may_be_empty_or_hold_nul),
        cmocka_unit_test(a_long_random_run_agrees_with_a_model),
        cmocka_unit_test(entries_can_be_removed_on_a_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
