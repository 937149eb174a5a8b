// Before the network: the incoming frame's cells and pyramid, the motion since the last one, and the past
// warped along it. mirage_cli/stream/motion.py and mirage_cli/lsd/history.py define what is computed; here every
// step of it is one kernel in fp32, tiles in shared memory.
// targets: sm_80 sm_90
#include "ingest.cuh"
#include "flow.cuh"
#include "past.cuh"

static_assert(lsd::UNSHUFFLE == 4, "a cell is four rows of four pixels here, a thread each");
