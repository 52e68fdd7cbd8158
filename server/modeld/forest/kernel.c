/* Score rows with a checked plan: see docs/adr/0004-plan.md for the format and format.py for its check.
 *
 * Where the plan is scaled, a value becomes (value - mean) / scale first, two operations as scikit-learn has them.
 *
 * A row is then reduced to one small integer a column: how many of the column's thresholds lie below the value (its
 * rank), so that `value <= threshold` becomes a comparison of integers. Then there are two layouts.
 *
 *   lanes  Ranks, cuts and leaf labels are bytes. A label per tree says where the row stands: the label of the leftmost
 *          leaf that it can still reach. A node moves it from the leftmost leaf of its left side to that of its right
 *          side, if it stands there and its rank is above the cut. All nodes are looked at, none is jumped to: 64 trees
 *          at once for one row (the look-up of ranks is one permutation of bytes where the processor has it), or 256
 *          rows at once for one tree.
 *   walk   Nodes with two children, for what doesn't fit bytes: 8 trees or 8 rows are walked at a time.
 *
 * Leaves are added in the order of the trees in float64, then come LightGBM's own formulae (its ConvertOutput): that is
 * what makes results equal to the bit. Nothing may be reassociated or contracted: never compile with -ffast-math.
 *
 * The kernel itself checks nothing. What it may rely on is what format.py has proved of the plan; each place says it.
 * It keeps no state: any number of threads may use one plan.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__)) && !defined(MODELD_PLAIN)
/* Versions of the hot functions for what the processor has; which one runs is asked at run time. */
#define VERSIONS 1
#include <immintrin.h>
#define TARGET256 __attribute__((target("avx2")))
#define TARGET512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")))
#endif

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

enum { LANES = 1, WALK = 2 };
enum { VALUE = 0, ZERO_MISSING = 1, NAN_MISSING = 2, CATEGORY = 3 };
enum { IDENTITY = 0, SIGMOID = 1, SOFTMAX = 2, EXPONENTIAL = 3, SIGNED_SQUARE = 4, LOG1P_EXP = 5 };

/* Thresholds in a block; a block's last is its pivot. */
#define BLOCK 16
/* Trees in a vector of labels, vectors in a chunk, rows in a batch. */
#define LANE 64
#define VECTORS 4
#define CHUNK (LANE * VECTORS)
#define BATCH 256
/* Trees or rows that are walked at a time. */
#define STRIDE 8

/* |value| up to this is zero: LightGBM's kZeroThreshold, 1e-35f. */
static const double ZERO = 1e-35f;

struct column {
    uint32_t feature;
    uint32_t kind;
    /* In blocks of thresholds, or in words of a bit set. */
    uint32_t first, count;
    /* In blocks of pivots. */
    uint32_t pivot;
    /* The rank of a missing value. */
    uint32_t missing;
};

struct node {
    uint16_t column, cut;
    /* Left and right: a node of the same tree, or ~leaf. */
    int16_t child[2];
};

struct plan {
    const struct column *columns;
    const double *thresholds, *pivots;
    const uint32_t *words;
    const uint32_t *first_leaf, *sizes;
    const double *leaves;
    /* One a feature; only where `scaled`. */
    const double *means, *scales;
    /* Lanes: the positions of each chunk, then a vector of 64 bytes for each of its positions and vectors. */
    const uint32_t *positions;
    const uint8_t *slots, *cuts, *from, *to;
    const uint64_t *wraps;
    /* Walk. */
    const uint32_t *first_node;
    const struct node *nodes;
    uint32_t layout, n_features, n_columns, n_trees, n_outputs, transform, average, scaled;
    double sigmoid, divisor;
};

/* ---- ranks */

INLINE uint32_t count_below(const double *of, double value) {
    uint32_t n = 0;
    for (int i = 0; i < BLOCK; i++) n += of[i] < value;
    return n;
}

/* Which block: the first whose pivot isn't below the value, or the last. The result is below `count`, which the check
 * has found to be at least 1 and inside the array: so the block can be read. */
INLINE uint32_t find_block(const double *pivots, uint32_t count, double value) {
    uint32_t low = 0, left = count;
    while (left > 1) {
        uint32_t half = left / 2;
        low += pivots[low + half - 1] < value ? half : 0;
        left -= half;
    }
    return low;
}

INLINE uint32_t in_set(const struct plan *p, const struct column *c, double value) {
    /* Truncated toward zero as a cast to int does; NaN, negatives and what an int can't hold are in no set. */
    if (!(value > -1.0) || value >= 2147483648.0) return 0;
    uint32_t category = (uint32_t)(int32_t)value;
    if (category / 32 >= c->count) return 0;
    return (p->words[c->first + category / 32] >> (category % 32)) & 1;
}

INLINE double as_zero(double value) { return fabs(value) <= ZERO ? 0.0 : value; }

/* What is special of a value: -1 if it is ranked, else the rank. */
INLINE int64_t special(const struct plan *p, const struct column *c, double *value) {
    double v = as_zero(*value);
    if (c->kind == CATEGORY) return in_set(p, c, v) ? 0 : c->missing;
    if (c->kind == NAN_MISSING) {
        if (v != v) return c->missing;
    } else {
        if (v != v) v = 0.0;
        if (c->kind == ZERO_MISSING && v == 0.0) return c->missing;
    }
    *value = v;
    return -1;
}

/* Ranks of `n` rows: out[column * stride + row]. */
#define RANKS(NAME, TYPE, ATTRIBUTE, BLOCK_OF, COUNT)                                                                  \
    ATTRIBUTE static void NAME(const struct plan *p, const double *rows, size_t n, TYPE *out, size_t stride) {         \
        for (size_t at = 0; at < p->n_columns; at++, out += stride) {                                                  \
            const struct column *c = p->columns + at;                                                                  \
            const double *value = rows + c->feature, *pivots = p->pivots + (size_t)c->pivot * BLOCK;                   \
            const double *thresholds = p->thresholds + (size_t)c->first * BLOCK;                                       \
            const int scaled = p->scaled;                                                                              \
            const double mean = scaled ? p->means[c->feature] : 0.0, scale = scaled ? p->scales[c->feature] : 1.0;     \
            for (size_t row = 0; row < n; row++, value += p->n_features) {                                             \
                double v = scaled ? (*value - mean) / scale : *value;                                                  \
                int64_t rank = special(p, c, &v);                                                                      \
                if (rank < 0) {                                                                                        \
                    uint32_t block = BLOCK_OF(pivots, c->count, v);                                                    \
                    rank = BLOCK * block + COUNT(thresholds + (size_t)block * BLOCK, v);                               \
                }                                                                                                      \
                out[row] = (TYPE)rank;                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    }

RANKS(ranks8_any, uint8_t, , find_block, count_below)
RANKS(ranks16_any, uint16_t, , find_block, count_below)

#ifdef VERSIONS
RANKS(ranks8_256, uint8_t, TARGET256, find_block, count_below)
RANKS(ranks16_256, uint16_t, TARGET256, find_block, count_below)

TARGET512 INLINE uint32_t count_below_512(const double *of, double value) {
    __m512d v = _mm512_set1_pd(value);
    uint32_t low = _mm512_cmp_pd_mask(_mm512_loadu_pd(of), v, _CMP_LT_OQ);
    uint32_t high = _mm512_cmp_pd_mask(_mm512_loadu_pd(of + 8), v, _CMP_LT_OQ);
    return (uint32_t)__builtin_popcount(low | high << 8);
}

/* Pivots are padded with infinities to whole blocks: up to BLOCK of them can be counted at once. */
TARGET512 INLINE uint32_t find_block_512(const double *pivots, uint32_t count, double value) {
    if (count > BLOCK) return find_block(pivots, count, value);
    uint32_t below = count_below_512(pivots, value);
    return below < count ? below : count - 1;
}

RANKS(ranks8_512, uint8_t, TARGET512, find_block_512, count_below_512)
RANKS(ranks16_512, uint16_t, TARGET512, find_block_512, count_below_512)
#endif

/* ---- lanes, one row: 64 trees a vector */

/* A label is 0 or some tree's `to`, which the check has found below the tree's leaves: so the leaf can be read. The
 * loops have fixed ends. Vectors of the last chunk that have fewer than 64 trees have labels that nobody reads. */
INLINE void add_leaves(const struct plan *p, size_t tree, size_t trees, const uint8_t *labels, double *out) {
    const uint32_t *first = p->first_leaf + tree;
    if (p->n_outputs == 1) {
        double sum = *out;
        for (size_t i = 0; i < trees; i++) sum += p->leaves[first[i] + labels[i]];
        *out = sum;
        return;
    }
    size_t output = tree % p->n_outputs;
    for (size_t i = 0; i < trees; i++) {
        out[output] += p->leaves[first[i] + labels[i]];
        if (++output == p->n_outputs) output = 0;
    }
}

INLINE void move_labels(const struct plan *p, size_t at, const uint8_t *ranks, uint8_t *labels) {
    const uint8_t *slots = p->slots + at * LANE, *cuts = p->cuts + at * LANE;
    const uint8_t *from = p->from + at * LANE, *to = p->to + at * LANE;
    uint64_t wraps = p->wraps[at];
    uint8_t found[LANE];
    for (int i = 0; i < LANE; i++) found[i] = ranks[slots[i]];
    if (wraps)
        for (int i = 0; i < LANE; i++) found[i] += (wraps >> i) & 1;
    for (int i = 0; i < LANE; i++) {
        uint8_t moves = -((labels[i] == from[i]) & (found[i] > cuts[i]));
        labels[i] ^= moves & (from[i] ^ to[i]);
    }
}

INLINE void one_row(const struct plan *p, const uint8_t *ranks, double *out) {
    size_t at = 0;
    for (size_t tree = 0, chunk = 0; tree < p->n_trees; tree += CHUNK, chunk++) {
        size_t trees = p->n_trees - tree < CHUNK ? p->n_trees - tree : CHUNK;
        size_t vectors = (trees + LANE - 1) / LANE;
        uint8_t labels[CHUNK] = {0};
        for (size_t position = 0; position < p->positions[chunk]; position++)
            for (size_t vector = 0; vector < vectors; vector++)
                move_labels(p, at++, ranks, labels + vector * LANE);
        add_leaves(p, tree, trees, labels, out);
    }
}

static void one_row_any(const struct plan *p, const uint8_t *ranks, double *out) { one_row(p, ranks, out); }

#ifdef VERSIONS
TARGET256 static void one_row_256(const struct plan *p, const uint8_t *ranks, double *out) { one_row(p, ranks, out); }

TARGET512 INLINE void chunk_512(const struct plan *p, size_t at, size_t positions, const size_t vectors,
                                const __m512i *table, const int high, uint8_t *labels) {
    __m512i label[VECTORS];
    const __m512i one = _mm512_set1_epi8(1);
    for (size_t v = 0; v < vectors; v++) label[v] = _mm512_setzero_si512();
    for (size_t position = 0; position < positions; position++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++, at++) {
            __m512i slot = _mm512_loadu_si512(p->slots + at * LANE);
            __m512i rank = _mm512_permutex2var_epi8(table[0], slot, table[1]);
            if (high)
                rank = _mm512_mask_blend_epi8(_mm512_movepi8_mask(slot), rank,
                                              _mm512_permutex2var_epi8(table[2], slot, table[3]));
            rank = _mm512_mask_add_epi8(rank, p->wraps[at], rank, one);
            __mmask64 here = _mm512_cmpeq_epi8_mask(label[v], _mm512_loadu_si512(p->from + at * LANE));
            __mmask64 moves = _mm512_mask_cmpgt_epu8_mask(here, rank, _mm512_loadu_si512(p->cuts + at * LANE));
            label[v] = _mm512_mask_loadu_epi8(label[v], moves, p->to + at * LANE);
        }
    }
    for (size_t v = 0; v < vectors; v++) _mm512_storeu_si512(labels + v * LANE, label[v]);
}

TARGET512 static void one_row_512(const struct plan *p, const uint8_t *ranks, double *out) {
    __m512i table[4];
    for (int i = 0; i < 4; i++) table[i] = _mm512_loadu_si512(ranks + i * 64);
    const int high = p->n_columns > 128;
    size_t at = 0;
    for (size_t tree = 0, chunk = 0; tree < p->n_trees; tree += CHUNK, chunk++) {
        size_t trees = p->n_trees - tree < CHUNK ? p->n_trees - tree : CHUNK;
        size_t vectors = (trees + LANE - 1) / LANE, positions = p->positions[chunk];
        uint8_t labels[CHUNK];
#define CASE(N)                                                                                                        \
    case N:                                                                                                            \
        if (high) chunk_512(p, at, positions, N, table, 1, labels);                                                    \
        else chunk_512(p, at, positions, N, table, 0, labels);                                                         \
        break;
        switch (vectors) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
        at += positions * vectors;
        add_leaves(p, tree, trees, labels, out);
    }
}
#endif

/* ---- lanes, many rows: 256 rows a tree */

/* A vector as wide as a version's registers: compilers take wider ones apart byte by byte. */
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint8_t bytes32 __attribute__((vector_size(32)));
typedef uint8_t bytes64 __attribute__((vector_size(64)));

/* A tree's nodes are walked in order: sizes are at most the chunk's positions, the check has found. */
#define BATCH_VERSION(NAME, ATTRIBUTE, TYPE)                                                                           \
    ATTRIBUTE static void NAME(const struct plan *p, const uint8_t *ranks, size_t n, double *out) {                    \
        size_t first = 0;                                                                                              \
        for (size_t tree = 0, chunk = 0; tree < p->n_trees; chunk++) {                                                 \
            size_t trees = p->n_trees - tree < CHUNK ? p->n_trees - tree : CHUNK;                                      \
            size_t vectors = (trees + LANE - 1) / LANE;                                                                \
            for (size_t lane = 0; lane < trees; lane++, tree++) {                                                      \
                uint8_t labels[BATCH];                                                                                 \
                for (size_t part = 0; part < BATCH; part += 4 * sizeof(TYPE)) {                                        \
                    TYPE label[4];                                                                                     \
                    memset(label, 0, sizeof label);                                                                    \
                    for (size_t node = 0; node < p->sizes[tree]; node++) {                                             \
                        size_t vector = first + node * vectors + lane / LANE, at = vector * LANE + lane % LANE;        \
                        const uint8_t *rank = ranks + (size_t)p->slots[at] * BATCH + part;                             \
                        uint8_t wrap = (p->wraps[vector] >> (lane % LANE)) & 1;                                        \
                        TYPE from = p->from[at] - (TYPE){0}, cut = p->cuts[at] - (TYPE){0};                            \
                        TYPE flip = from ^ p->to[at];                                                                  \
                        for (int v = 0; v < 4; v++) {                                                                  \
                            TYPE found;                                                                                \
                            memcpy(&found, rank + v * sizeof found, sizeof found);                                     \
                            found += wrap;                                                                             \
                            label[v] ^= (TYPE)(label[v] == from) & (TYPE)(found > cut) & flip;                         \
                        }                                                                                              \
                    }                                                                                                  \
                    memcpy(labels + part, label, sizeof label);                                                        \
                }                                                                                                      \
                const double *leaves = p->leaves + p->first_leaf[tree];                                                \
                double *to = out + tree % p->n_outputs;                                                                \
                for (size_t row = 0; row < n; row++, to += p->n_outputs) *to += leaves[labels[row]];                   \
            }                                                                                                          \
            first += (size_t)p->positions[chunk] * vectors;                                                            \
        }                                                                                                              \
    }
BATCH_VERSION(batch_any, , bytes16)
#ifdef VERSIONS
BATCH_VERSION(batch_256, TARGET256, bytes32)
BATCH_VERSION(batch_512, TARGET512, bytes64)
#endif

/* ---- walk */

/* A node's children are greater than it and inside its tree, or leaves of its tree; its column is a column: so a walk
 * reads what is there and is over after as many steps as the tree has nodes at most. A walker at its leaf (negative)
 * looks at the root once more and stays. A tree without nodes begins at its leaf. */
INLINE int32_t walk_step(const struct node *nodes, const uint16_t *ranks, size_t stride, int32_t at) {
    int32_t done = at >> 31; /* arithmetic, without branches: they would be guesses, and half of them wrong */
    const struct node *n = nodes + (at & ~done);
    int32_t next = n->child[ranks[n->column * stride] > n->cut];
    return next ^ ((next ^ at) & done);
}

INLINE void walk_trees(const struct plan *p, const uint16_t *ranks, size_t tree, const int trees, double *out) {
    int32_t at[STRIDE], all;
    const struct node *nodes[STRIDE];
    for (int i = 0; i < trees; i++) {
        nodes[i] = p->nodes + p->first_node[tree + i];
        at[i] = p->sizes[tree + i] ? 0 : -1;
    }
    /* The nodes of a tree without any are those of the next, or the spare one behind the last: they can be read. */
    do {
        all = -1;
#pragma GCC unroll 8
        for (int i = 0; i < trees; i++) {
            at[i] = walk_step(nodes[i], ranks, 1, at[i]);
            all &= at[i];
        }
    } while (all >= 0);
    for (int i = 0; i < trees; i++)
        out[(tree + i) % p->n_outputs] += p->leaves[p->first_leaf[tree + i] + ~at[i]];
}

static void walk_row(const struct plan *p, const uint16_t *ranks, double *out) {
    size_t tree = 0;
    for (; tree + STRIDE <= p->n_trees; tree += STRIDE) walk_trees(p, ranks, tree, STRIDE, out);
    for (; tree < p->n_trees; tree++) walk_trees(p, ranks, tree, 1, out);
}

static void walk_rows(const struct plan *p, const uint16_t *ranks, double *out) {
    for (size_t tree = 0; tree < p->n_trees; tree++) {
        const struct node *nodes = p->nodes + p->first_node[tree];
        int32_t at[STRIDE], all;
        for (int i = 0; i < STRIDE; i++) at[i] = p->sizes[tree] ? 0 : -1;
        do {
            all = -1;
#pragma GCC unroll 8
            for (int i = 0; i < STRIDE; i++) {
                at[i] = walk_step(nodes, ranks + i, STRIDE, at[i]);
                all &= at[i];
            }
        } while (all >= 0);
        const double *leaves = p->leaves + p->first_leaf[tree];
        double *to = out + tree % p->n_outputs;
        for (int i = 0; i < STRIDE; i++, to += p->n_outputs) *to += leaves[~at[i]];
    }
}

/* ---- from sums to outputs: LightGBM's formulae, term for term */

static void finish(const struct plan *p, double *out, size_t n) {
    size_t k = p->n_outputs;
    for (size_t row = 0; row < n; row++, out += k) {
        if (p->average)
            for (size_t i = 0; i < k; i++) out[i] /= p->divisor;
        switch (p->transform) {
        case SIGMOID:
            for (size_t i = 0; i < k; i++) out[i] = 1.0 / (1.0 + exp(-p->sigmoid * out[i]));
            break;
        case SOFTMAX: {
            double most = out[0], sum = 0.0;
            for (size_t i = 1; i < k; i++) most = out[i] < most ? most : out[i];
            for (size_t i = 0; i < k; i++) {
                out[i] = exp(out[i] - most);
                sum += out[i];
            }
            for (size_t i = 0; i < k; i++) out[i] /= sum;
            break;
        }
        case EXPONENTIAL:
            for (size_t i = 0; i < k; i++) out[i] = exp(out[i]);
            break;
        case SIGNED_SQUARE:
            for (size_t i = 0; i < k; i++) {
                double sign = (double)((out[i] > 0.0) - (out[i] < 0.0));
                out[i] = sign * out[i] * out[i];
            }
            break;
        case LOG1P_EXP:
            for (size_t i = 0; i < k; i++) out[i] = log1p(exp(out[i]));
            break;
        }
    }
}

/* ---- which version, and in which portions */

struct version {
    void (*ranks8)(const struct plan *, const double *, size_t, uint8_t *, size_t);
    void (*ranks16)(const struct plan *, const double *, size_t, uint16_t *, size_t);
    void (*one_row)(const struct plan *, const uint8_t *, double *);
    void (*batch)(const struct plan *, const uint8_t *, size_t, double *);
    /* Fewer rows than this are scored one after the other: a batch costs as much for one row as for all. */
    size_t few;
};

static const struct version VERSION[] = {
    {ranks8_any, ranks16_any, one_row_any, batch_any, 32},
#ifdef VERSIONS
    {ranks8_256, ranks16_256, one_row_256, batch_256, 20},
    {ranks8_512, ranks16_512, one_row_512, batch_512, 72},
#endif
};

/* The best version that this processor runs. */
EXPORT int modeld_best_version(void) {
#ifdef VERSIONS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

static void predict_lanes(const struct plan *p, const struct version *with, const double *rows, size_t n, double *out) {
    /* At most 256 columns: slots are bytes. The check has found each below n_columns, or 0. */
    uint8_t ranks[256 * BATCH];
    while (n) {
        size_t some = n < with->few ? 1 : n < BATCH ? n : BATCH;
        if (some == 1) {
            memset(ranks, 0, 256);
            with->ranks8(p, rows, 1, ranks, 1);
            with->one_row(p, ranks, out);
        } else {
            if (some < BATCH) memset(ranks, 0, (size_t)p->n_columns * BATCH);
            with->ranks8(p, rows, some, ranks, BATCH);
            with->batch(p, ranks, some, out);
        }
        rows += some * p->n_features, out += some * p->n_outputs, n -= some;
    }
}

static int predict_walk(const struct plan *p, const struct version *with, const double *rows, size_t n, double *out) {
    uint16_t *ranks = malloc(sizeof *ranks * STRIDE * ((size_t)p->n_columns + 1));
    if (!ranks) return 1;
    while (n) {
        size_t some = n < STRIDE ? 1 : STRIDE;
        with->ranks16(p, rows, some, ranks, some);
        if (some == 1) walk_row(p, ranks, out);
        else walk_rows(p, ranks, out);
        rows += some * p->n_features, out += some * p->n_outputs, n -= some;
    }
    free(ranks);
    return 0;
}

/* Score `n` rows of `n_features` float64 into `n` rows of `n_outputs`, with a version that this processor runs. 0, or 1
 * where there is no memory. */
EXPORT int modeld_predict(const struct plan *p, int version, const double *rows, size_t n, double *out) {
    memset(out, 0, sizeof *out * n * p->n_outputs);
    if (p->layout == LANES) predict_lanes(p, VERSION + version, rows, n, out);
    else if (predict_walk(p, VERSION + version, rows, n, out)) return 1;
    finish(p, out, n);
    return 0;
}

/* The size of struct plan as compiled: a caller that lays it out otherwise finds out here. */
EXPORT size_t modeld_plan_size(void) { return sizeof(struct plan); }
