#include "services/journal-service/core/admission.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/journal-service/core/record_check.h"
#include "services/journal-service/core/refusal.h"

namespace intermezzo::journal {
namespace {

absl::Status Malformed(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("record ", index, " of the batch: ", what));
}

v1::AppendRefusal RefusalWith(v1::AppendRefusalReason reason, const CollectionName& name,
                              const JournalState& state, const OriginState& origin) {
  v1::AppendRefusal refusal;
  refusal.set_reason(reason);
  refusal.set_collection(name.str());
  refusal.set_confirmed_origin_seq(origin.last_origin_seq);
  refusal.set_epoch(state.epoch.value());
  return refusal;
}

// Where the record check found a conflict: adds what only the batch's level knows.
absl::Status WithPlace(absl::Status status, const CollectionName& name, const JournalState& state,
                       const OriginState& origin, size_t index) {
  std::string message = absl::StrCat("collection ", name.str(), ", record ", index,
                                     " of the batch: ", status.message());
  auto refusal = RefusalOf(status);
  if (!refusal) return absl::Status(status.code(), message);
  refusal->set_collection(name.str());
  refusal->set_record_index(index);
  refusal->set_confirmed_origin_seq(origin.last_origin_seq);
  refusal->set_epoch(state.epoch.value());
  return Refuse(*refusal, message);
}

}  // namespace

absl::StatusOr<PreparedBatch> PrepareBatch(Ordinal ordinal, Epoch epoch,
                                           uint64_t previous_origin_seq,
                                           std::vector<record::v1::Entry> entries) {
  if (!ordinal || ordinal.value() > kMaxOrdinal) {
    return absl::InvalidArgumentError(
        absl::StrCat("ordinal ", ordinal.value(), " is not 1 to ", kMaxOrdinal));
  }
  if (previous_origin_seq > kMaxCounter) {
    return absl::InvalidArgumentError("previous_origin_seq has more than 40 bits");
  }
  if (entries.size() > static_cast<size_t>(kMaxBatchRecords)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the batch has ", entries.size(), " records, at most ", kMaxBatchRecords, " are allowed"));
  }
  PreparedBatch batch{ordinal, epoch, previous_origin_seq, {}, {}, 0};
  for (const auto& entry : entries) batch.bytes += entry.record().size() + entry.payload().size();
  if (batch.bytes > kMaxBatchBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the batch has ", batch.bytes, " bytes, at most ", kMaxBatchBytes, " are allowed"));
  }
  batch.entries.reserve(entries.size());
  batch.records.reserve(entries.size());
  uint64_t before = previous_origin_seq;
  for (size_t i = 0; i < entries.size(); ++i) {
    auto& entry = entries[i];
    absl::StatusOr<record::v1::Record> record = OpenRecord(entry);
    if (!record.ok()) return Malformed(i, record.status().message());
    const Version version(record->version());
    if (version.ordinal() != ordinal) {
      return Malformed(i, absl::StrCat("its version ", FormatStamp(version.value()),
                                       " is not of the batch's origin ", ordinal.value()));
    }
    if (version.counter() <= before) {
      return Malformed(
          i, absl::StrCat("its origin seq ", version.counter(), " does not follow ", before));
    }
    before = version.counter();
    if (auto payload = OpenPayload(entry, *record); !payload.ok()) {
      return Malformed(i, payload.status().message());
    }
    auto stored = std::make_shared<StoredEntry>();
    stored->payload = std::move(*entry.mutable_payload());
    stored->version = version;
    stored->entry.set_allocated_record(entry.release_record());
    stored->entry.set_codec(entry.codec());
    stored->entry.set_payload_length(stored->payload.size());
    batch.entries.push_back(std::move(stored));
    batch.records.push_back(*std::move(record));
  }
  return batch;
}

absl::StatusOr<Confirmation> AdmitBatch(const CollectionName& name, PreparedBatch& batch,
                                        absl::Time now, JournalState& state, OriginState& origin,
                                        VersionOverlay& table, std::vector<EntryPtr>& admitted) {
  if (batch.epoch < state.epoch) {
    return Refuse(
        RefusalWith(v1::APPEND_REFUSAL_REASON_STALE_EPOCH, name, state, origin),
        absl::StrCat("collection ", name.str(), ": epoch ", batch.epoch.value(),
                     " is stale, the journal accepts ", state.epoch.value(), " and higher"));
  }
  if (batch.previous_origin_seq > origin.last_origin_seq) {
    return Refuse(RefusalWith(v1::APPEND_REFUSAL_REASON_GAP, name, state, origin),
                  absl::StrCat("collection ", name.str(), ": the batch follows origin seq ",
                               batch.previous_origin_seq, " of origin ", batch.ordinal.value(),
                               ", the journal has only up to ", origin.last_origin_seq,
                               ": send the records between"));
  }

  size_t first_new = 0;
  for (; first_new < batch.entries.size(); ++first_new) {
    const uint64_t origin_seq = batch.entries[first_new]->version.counter();
    if (origin_seq > origin.last_origin_seq) break;
    if (origin_seq == origin.last_origin_seq &&
        Xxh3(batch.entries[first_new]->entry.record()) != origin.last_hash) {
      return absl::DataLossError(
          absl::StrCat("collection ", name.str(), ": origin ", batch.ordinal.value(),
                       " sends another record as ", origin_seq,
                       " than the one that the journal has: the node went back in time (restored "
                       "from an old image?) and must register as a new incarnation"));
    }
  }

  VersionOverlay batch_table(&table);
  for (size_t i = first_new; i < batch.entries.size(); ++i) {
    if (absl::Status status = ApplyRecord(batch.records[i], batch_table); !status.ok()) {
      return WithPlace(std::move(status), name, state, origin, i);
    }
  }

  // From here nothing fails.
  table.Merge(std::move(batch_table));
  if (batch.epoch > state.epoch) state.epoch = batch.epoch;
  if (first_new < batch.entries.size()) {
    state.committed_ns = std::max(state.committed_ns, absl::ToUnixNanos(now));
  }
  admitted.reserve(admitted.size() + batch.entries.size() - first_new);
  for (size_t i = first_new; i < batch.entries.size(); ++i) {
    std::shared_ptr<StoredEntry>& stored = batch.entries[i];
    state.head = state.head.next();
    state.head_chain = ChainHash(state.head_chain, state.head, stored->entry.record());
    state.head_bytes += stored->bytes();
    stored->entry.set_seq(state.head.value());
    stored->entry.set_chain(state.head_chain);
    stored->entry.set_committed_ns(state.committed_ns);
    origin.last_origin_seq = stored->version.counter();
    origin.last_seq = state.head;
    if (i + 1 == batch.entries.size()) origin.last_hash = Xxh3(stored->entry.record());
    admitted.push_back(std::move(stored));
  }
  return Confirmation{origin.last_origin_seq, origin.last_seq};
}

absl::Status AdmitFence(const CollectionName& name, Epoch epoch, JournalState& state) {
  if (epoch < state.epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("collection ", name.str(), ": fence at epoch ", epoch.value(),
                     " is stale, the journal is at ", state.epoch.value()));
  }
  state.epoch = epoch;
  return absl::OkStatus();
}

Seq TrimLimit(const JournalState& state, const std::vector<Cursor>& cursors) {
  if (cursors.empty()) return Seq();
  Seq limit = state.head;
  for (const Cursor& cursor : cursors) limit = std::min(limit, cursor.seq);
  return limit;
}

absl::Status CheckReadable(const CollectionName& name, const JournalState& state, Seq from) {
  if (from < state.first) {
    return absl::OutOfRangeError(absl::StrCat("collection ", name.str(), ": seq ", from.value(),
                                              " was trimmed, the journal begins at ",
                                              state.first.value()));
  }
  if (from > state.head.next()) {
    return absl::OutOfRangeError(absl::StrCat("collection ", name.str(), ": seq ", from.value(),
                                              " lies beyond the end, the head is ",
                                              state.head.value()));
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::journal
