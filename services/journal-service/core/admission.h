// What a journal does with a batch: the decisions, without threads and without IO.
//
// PrepareBatch looks at the batch alone (may run anywhere, does the expensive checks); AdmitBatch
// compares it with the journal and numbers it (runs where appends are in order). Both journals
// share them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/version_table.h"

namespace intermezzo::journal {

// Checks sizes, origin, order, every record (OpenRecord) and payload (OpenPayload).
// INVALID_ARGUMENT names the record. DATA_LOSS from a payload becomes INVALID_ARGUMENT.
absl::StatusOr<PreparedBatch> PrepareBatch(Ordinal ordinal, Epoch epoch,
                                           uint64_t previous_origin_seq,
                                           std::vector<record::v1::Entry> entries);

// Decides on a batch. On OK `state`, `origin` and `table` are the journal's after it, the new
// entries (with seq, chain and commit time) are appended to `admitted`. On an error (codes:
// journal.h) nothing was changed. An epoch above state.epoch raises it.
absl::StatusOr<Confirmation> AdmitBatch(const CollectionName& name, PreparedBatch& batch,
                                        absl::Time now, JournalState& state, OriginState& origin,
                                        VersionOverlay& table, std::vector<EntryPtr>& admitted);

// FAILED_PRECONDITION where a higher epoch is known; else raises state.epoch.
absl::Status AdmitFence(const CollectionName& name, Epoch epoch, JournalState& state);

// The highest seq that cursors and retention allow to be trimmed, age aside: the slowest replica's.
// 0 where no replica is registered.
Seq TrimLimit(const JournalState& state, const std::vector<Cursor>& cursors);

// OK where `from` can be read: first <= from <= head + 1. OUT_OF_RANGE otherwise.
absl::Status CheckReadable(const CollectionName& name, const JournalState& state, Seq from);

}  // namespace intermezzo::journal
