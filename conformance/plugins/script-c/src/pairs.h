// Lists of pairs, as the ABI encodes maps.

#ifndef SCRIPT_PAIRS_H
#define SCRIPT_PAIRS_H

#include "bytes.h"

// `k=v,k=v` as the ABI's list; a single `!` makes one that is malformed.
struct bytes pairs_encoded(struct slice text);

// Adds the pairs of a map, as `k=v,k=v`, without those that each proxy sets in its own way.
void pairs_add_listed(struct bytes *out, struct slice encoded);

#endif
