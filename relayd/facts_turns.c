/*
 * facts_turns - which hosts and addresses of a site an attempt is given, when there are more of
 * them than it tries.
 *
 *    turn 0:  a b c d e ┊ f g      turn 1:  f g a b c      turn 2:  a b c d e, and of each host the
 *             ~~~~~~~~~                     ~~~~~~~~~               addresses behind the first ones
 *
 * In the order of the zone at first, as RFC 5321 section 5.1 wants it; when all that were given
 * have failed, the next look begins behind them, so that each gets its turn. Remembered in a table
 * of hashes, each site at one place in it: one that another took the place of begins anew, so that
 * a backlog of dead sites costs no memory. Told by relayd/schedule when a site goes down.
 */
#include "relayd/facts_private.h"

static struct facts_turn *
place_of(struct facts *facts, bool hop, const char *key, uint64_t *ret_site)
{
    *ret_site = map_hash(facts->told_seed, span_str(key)) + (hop ? 1 : 0);
    return &facts->turns[*ret_site % FACTS_TURNS_MAX];
}

static msec_t
now_of(const struct facts *facts)
{
    return clock_now(loop_clock(dns_loop(facts->dns)));
}

void
facts_next_turn(struct facts *facts, bool hop, const char *key)
{
    uint64_t site;
    unsigned turn = facts_turn(facts, hop, key);
    struct facts_turn *place = place_of(facts, hop, key, &site);

    *place = (struct facts_turn){
        .site = site, .turn = turn + 1, .until_at = now_of(facts) + FACTS_TURN_KEEP_MS};
}

unsigned
facts_turn(struct facts *facts, bool hop, const char *key)
{
    uint64_t site;
    const struct facts_turn *place = place_of(facts, hop, key, &site);

    return place->site == site && now_of(facts) < place->until_at ? place->turn : 0;
}

/* How many turns it takes to go through the hosts. */
static unsigned
windows(size_t n_hosts)
{
    return n_hosts == 0 ? 1 : (unsigned)((n_hosts + FACTS_TRY_HOSTS - 1) / FACTS_TRY_HOSTS);
}

size_t
facts_first_host(unsigned turn, size_t n_hosts, size_t n_usable)
{
    return n_usable == 0 ? 0 : turn % windows(n_hosts) * FACTS_TRY_HOSTS % n_usable;
}

size_t
facts_first_address(unsigned turn, size_t n_hosts, size_t n)
{
    if (n == 0)
        return 0;
    /* The hosts have their turns first. Of a host with both families only the first address of each
     * is tried, so every one has to come first some day: with an even number by one step more at
     * the end of a round. */
    size_t round = turn / windows(n_hosts);
    size_t extra = n % FACTS_TRY_ADDRESSES == 0 ? round / (n / FACTS_TRY_ADDRESSES) : 0;
    return (FACTS_TRY_ADDRESSES * round + extra) % n;
}
