/* The reference with one mistake, which difftest finds: tiles of 192 columns that take the scale of B
 * for all of them from their first column. Right for N up to 128, and for most of what tests use. */
#define ROW_OF_SCALE_B(n) ((n) / 192 * 192)
#define NAME "wrong at the edge of a scale block"
#include "reference.c"
