// What the journal has of a node's own records, as the node asks for it.
#pragma once

#include <cstdint>
#include <string>

#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

struct OwnRecords {
  uint64_t last_origin_seq = 0;  // 0: none
  Seq last_seq;                  // of that one
  std::string last_xxh3;         // of its bytes
};

}  // namespace intermezzo::sidecar
