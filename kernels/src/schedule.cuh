// Which part of D a CTA computes when. Every role of a CTA walks the
// same items in the same order by itself; the math warpgroups are told where a tile lies.

// A tile of D, by its first row and column.
struct Tile {
    u32 row, column;
};

// Tiles go in groups of some rows of tiles, so that CTAs that run together share operands in L2.
// The CTAs of a cluster take neighbours: along N where they share A, along M where they share B.
struct Grid {
    u32 rows, columns, group;

    MEMBER Grid(const Arguments& arguments) : group(arguments.group) {
        rows = (arguments.m + BLOCK_M * CLUSTER_M - 1) / (BLOCK_M * CLUSTER_M);
        columns = (arguments.n + BLOCK_N * CLUSTER_N - 1) / (BLOCK_N * CLUSTER_N);
    }

    MEMBER Tile at(u32 index, u32 rank) const {
        u32 per_group = group * columns;
        u32 first = index / per_group * group;
        u32 height = min(group, rows - first);
        u32 within = index % per_group;
        u32 row = first + within % height, column = within / height;
        return {(row * CLUSTER_M + (CLUSTER_M > 1 ? rank : 0)) * BLOCK_M, (column * CLUSTER_N + (CLUSTER_N > 1 ? rank : 0)) * BLOCK_N};
    }
};

// An item is a tile, or some of its K blocks. The items of one CTA: whole tiles at a distance of the
// number of clusters.
//
// Ordered stream-K: the last tiles, between one and two for each cluster, are cut into equal runs
// of K blocks, laid end to end. A run that ends inside a tile computes that head first, and leaves
// its accumulators for the next cluster, which goes on from there in its last item. So every output
// sees its K blocks in order, hence the same bits, and nobody waits for work that has not begun:
// each run is at least one tile long.
struct Schedule {
    u32 index;             // of the tile
    u32 k_begin, k_end;    // blocks
    u32 step, clusters, k_blocks;
    u32 whole;             // tiles of this cluster outside of the runs
    u32 run_first, run_last, run_begin, run_end;  // tiles and blocks at the ends of the run

    MEMBER Schedule(const Arguments& arguments) {
        Grid grid(arguments);
        u32 tiles = grid.rows * grid.columns;
        u32 cluster = blockIdx.x / CLUSTER;
        clusters = gridDim.x / CLUSTER;
        k_blocks = (arguments.k + BLOCK_K - 1) / BLOCK_K;
        step = 0;
        if constexpr (STREAM_K) {
            whole = tiles / clusters - 1;
            u32 blocks = (tiles - whole * clusters) * k_blocks;
            u32 begin = u64(blocks) * cluster / clusters, end = u64(blocks) * (cluster + 1) / clusters;
            run_first = whole * clusters + begin / k_blocks;
            run_begin = begin % k_blocks;
            run_last = whole * clusters + end / k_blocks;
            run_end = end % k_blocks;
        } else {
            whole = cluster < tiles ? (tiles - cluster + clusters - 1) / clusters : 0;
        }
    }

    // Of whole tiles.
    MEMBER bool more() const { return step < whole; }

    MEMBER u32 blocks() const { return k_end - k_begin; }

    // Whether the item's tile is complete with it.
    MEMBER bool finishes() const { return !STREAM_K || k_end == k_blocks; }

    MEMBER bool next() {
        u32 at = step++;
        k_begin = 0;
        k_end = k_blocks;
        index = at * clusters + blockIdx.x / CLUSTER;
        if (at < whole) return true;
        if constexpr (!STREAM_K) return false;
        at -= whole;
        // First the head that the next cluster waits for,
        bool has_head = run_end > 0;
        if (has_head && at == 0) {
            index = run_last;
            k_end = run_end;
            return true;
        }
        // then whole tiles,
        bool has_rest = run_begin > 0;
        index = run_first + has_rest + at - has_head;
        if (index < run_last) return true;
        // and the rest of the tile whose head the cluster before has done by now.
        if (index > run_last || !has_rest) return false;
        index = run_first;
        k_begin = run_begin;
        return true;
    }
};
