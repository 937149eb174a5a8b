// Made by build.py; edit the files that are named here, not this.
#pragma once

namespace lsd {  // mirage_cli/lsd/model.py
constexpr int UNSHUFFLE = 4;
constexpr int CELL_PIXELS = 16;
constexpr int PICTURE_CHANNELS = 48;
constexpr int SEEN_CHANNELS = 112;
constexpr int OLDER_CHANNELS = 96;
constexpr float KEEP_OFFSET = 2.0f;
constexpr float LUMA_RED = 0.299f;
constexpr float LUMA_GREEN = 0.587f;
constexpr float LUMA_BLUE = 0.114f;
}

namespace motion {  // mirage_cli/stream/motion.py
constexpr int SEARCH = 3;
constexpr int MATCH_WINDOW = 2;
constexpr float MATCH_STAY = 0.004f;
constexpr float MATCH_SHARPNESS = 150.0f;
constexpr int WINDOW = 3;
constexpr int REACH = 6;
constexpr float LONGEST_STEP = 1.0f;
constexpr int NEAR = 3;
constexpr int AROUND = 12;
constexpr float MOVES_RATIO = 0.8f;
constexpr float MOVES_MARGIN = 0.002f;
constexpr float MOVES_MARGIN_AROUND = 0.001f;
constexpr float DAMPING = 1e-05f;
constexpr float HALF_CONFIDENT = 0.001f;
constexpr float LEAST_CONFIDENCE = 0.001f;
constexpr float CUT_LEAST_SPREAD = 0.05f;
}

namespace shapes {  // kernels/shapes.py
constexpr int ATTENTION_KEYS = 128;
constexpr int HEAD_WIDTH = 64;
}
