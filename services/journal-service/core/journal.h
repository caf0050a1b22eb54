// The ordered journal of a collection, and the set of all journals of a server.
//
// Two implementations meet this contract (tests/contract/journal_contract.h): memory/ and rocksdb/.
// Both take their decisions from admission.h; they differ in where the rows live.
//
// Threads: every method may be called from any thread. Callbacks run on a thread of the journal or
// on the caller's, possibly before the call returns; they must neither block nor destroy the store.
// The store outlives every call on its journals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/names.h"
#include "services/common/types/numbers.h"

namespace intermezzo::journal {

// Wall clock, passed in.
using Clock = std::function<absl::Time()>;

// An entry as a journal keeps it: the payload beside the envelope, so that it can be left out.
// Immutable once committed; shared by the tail cache and all readers.
struct StoredEntry {
  record::v1::Entry entry;  // `payload` always empty, `payload_length` always set
  std::string payload;      // encoded; empty where it was not read or there is none
  Version version;          // the record's

  size_t bytes() const { return entry.record().size() + payload.size(); }
};
using EntryPtr = std::shared_ptr<const StoredEntry>;

// A checked batch of one origin; made by PrepareBatch (admission.h).
struct PreparedBatch {
  Ordinal ordinal;
  Epoch epoch;
  uint64_t previous_origin_seq = 0;
  std::vector<std::shared_ptr<StoredEntry>> entries;
  std::vector<record::v1::Record> records;  // entries[i].record, parsed
  size_t bytes = 0;
};

// All records of the origin up to `origin_seq` are durable; `seq` is the last one's (0: none).
struct Confirmation {
  uint64_t origin_seq = 0;
  Seq seq;
};

// How a journal stands; what is durable, never more.
struct JournalState {
  uint64_t uid = 0;
  Seq head;                    // last seq, 0 while empty
  Seq first{1};                // first seq still kept; head + 1 where none is
  Epoch epoch;                 // lowest accepted
  uint64_t head_bytes = 0;     // encoded bytes ever appended
  uint64_t trimmed_bytes = 0;  // of these, already trimmed
  std::string head_chain;      // chain value at head; empty before the first
  std::string base_chain;      // chain value at first - 1
  int64_t committed_ns = 0;    // of the entry at head
  absl::Duration retention;    // how long entries stay that every replica has
};

// What the journal knows of an origin.
struct OriginState {
  uint64_t last_origin_seq = 0;  // 0: nothing yet
  Seq last_seq;                  // that record's
  std::string last_hash;         // Xxh3 of that record, to notice another one under its name

  friend bool operator==(const OriginState&, const OriginState&) = default;
};

struct Cursor {
  std::string node;
  Seq seq;
};

struct ReadOptions {
  bool skip_payloads = false;
  Ordinal skip_payloads_of;  // leave out payloads of this origin's records; 0: of none
  size_t max_bytes = 0;
  size_t max_records = 0;

  bool Skips(Version version) const {
    return skip_payloads || (skip_payloads_of && version.ordinal() == skip_payloads_of);
  }
};

// Told after every commit (and trim), once durable. `deleted` is the last call ever.
struct JournalEvent {
  Seq head;
  bool deleted = false;
};
using Watcher = std::function<void(const JournalEvent&)>;
using WatchId = uint64_t;

class Journal {
 public:
  virtual ~Journal() = default;

  virtual const CollectionName& name() const = 0;

  // Appends the batch as a whole or not at all; `done` is called exactly once, when it is durable.
  // FAILED_PRECONDITION: stale epoch. ABORTED: gap or conflict. RESOURCE_EXHAUSTED: disk full or
  // queue full. UNAVAILABLE: I/O error or stopping. NOT_FOUND: deleted. Batches of one caller are
  // taken in the order of their calls. Refusals carry a payload (refusal.h).
  virtual void Append(PreparedBatch batch,
                      std::function<void(absl::StatusOr<Confirmation>)> done) = 0;

  // Refuses every lower epoch from now on; answers with the head at that point.
  // FAILED_PRECONDITION: a higher epoch is known.
  virtual void Fence(Epoch epoch, std::function<void(absl::StatusOr<Seq>)> done) = 0;

  // Entries from `from` on, dense, within the limits but at least one if there is one; empty at
  // head + 1. OUT_OF_RANGE: trimmed, or beyond head + 1. May read the disk.
  virtual absl::StatusOr<std::vector<EntryPtr>> Read(Seq from, const ReadOptions& options) = 0;

  // As Read, but only what can be had without reading the disk: false where it cannot.
  virtual bool ReadCached(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) = 0;

  // Chain value at `seq`: empty for 0. OUT_OF_RANGE where it is not known any more or not yet.
  virtual absl::StatusOr<std::string> ChainAt(Seq seq) = 0;

  virtual JournalState State() const = 0;

  // What is durable of an origin's records. May read the disk.
  virtual absl::StatusOr<OriginState> Origin(Ordinal ordinal) const = 0;

  // Replaces the list of replicas that hold back trimming. With an empty list nothing is trimmed.
  virtual absl::Status SetCursors(std::vector<Cursor> cursors) = 0;

  // Removes entries that every registered replica has applied and that are older than the
  // retention; a bounded number per call. Answers how many.
  virtual absl::StatusOr<uint64_t> Trim() = 0;

  // Calls `watcher` after every commit until Unwatch returns.
  virtual WatchId Watch(Watcher watcher) = 0;
  virtual void Unwatch(WatchId id) = 0;
};

class JournalStore {
 public:
  virtual ~JournalStore() = default;
  // Idempotent for the same uid. ALREADY_EXISTS: the name with another uid, or the uid with another
  // name. Blocks until durable.
  virtual absl::Status Create(const CollectionName& name, uint64_t uid,
                              absl::Duration retention) = 0;
  // Idempotent. Blocks until durable.
  virtual absl::Status Delete(const CollectionName& name) = 0;
  // NOT_FOUND.
  virtual absl::StatusOr<std::shared_ptr<Journal>> Find(const CollectionName& name) = 0;
  virtual std::vector<std::shared_ptr<Journal>> List() = 0;
};

}  // namespace intermezzo::journal
