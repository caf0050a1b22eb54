// Whether a record may follow what the journal has, and what it makes of it.
//
// Pure decision: versions stated against versions there are, then the shape of the tree
// (services/README.md, "Versions").
#pragma once

#include "absl/status/status.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/journal-service/core/version_table.h"

namespace intermezzo::journal {

// Checks `record` against `table` and enters its effect there. OpenRecord has passed it: it is well
// formed and touches what its operation touches.
// ABORTED (with an AppendRefusal): a conflict. After an error the overlay may hold a part of the
// effect: drop it.
absl::Status ApplyRecord(const record::v1::Record& record, VersionOverlay& table);

// "4:17": ordinal and counter, for people.
std::string FormatStamp(uint64_t stamp);

}  // namespace intermezzo::journal
