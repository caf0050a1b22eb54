// What becomes of a record that was made while disconnected, now that the tree is the server's
// again: the table of services/adr/0003-keep-both.md as code. No effects: it reads the object
// table, keeps what the ids and names of the queue mean now, and says which updates to make.
//
// Owned and called by the replayer, under the replica's update lock, one queued record after the
// other; each decision must be carried out (or given up for good) before the next is asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "intermezzo/record/v1/record.pb.h"
#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/common/types/names.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/node_db/node_db.h"

namespace intermezzo::sidecar {

// What the ids and names in the queue mean now; empty where they mean themselves.
struct ReplayMaps {
  std::map<uint64_t, uint64_t> objects;
  std::map<std::pair<uint64_t, std::string>, std::string> names;  // (directory, name) to name
};

// One local update to make in place of a queued record.
struct ReplayStep {
  enum class Data {
    kNone,          // the op says all
    kQueued,        // the payload is the queued record's
    kLocalVersion,  // a create: attributes and content are `local_version_of`'s in the conflict
                    // store
  };
  // Only the op is set.
  record::v1::Record record;
  Data data = Data::kNone;
  ObjectId local_version_of;
};

struct ReplayDecision {
  // In order; none where nothing is to be done.
  std::vector<ReplayStep> steps;
  // Learned with this record; in effect at once, to be kept with the steps.
  ReplayMaps learned;
  // "update/update" and so on, empty where there is no conflict; and what was decided, for people.
  std::string conflict;
  std::string outcome;
};

class ReplayRules {
 public:
  struct Context {
    // The object table after the reset, and after each step.
    const NodeDb* db = nullptr;
    NodeName node;
    Ordinal ordinal;
    // Versions of this node from this origin seq on were made by the replay.
    uint64_t first_replayed = 0;
    // The row that an object had before the reset; absent where it had none.
    std::function<std::optional<storage::v1::ObjectRow>(ObjectId)> former;
    // Whether the conflict store has a local version of the file.
    std::function<bool(ObjectId)> has_local_version;
    // The attributes that an object has now.
    std::function<std::optional<record::v1::Attributes>(ObjectId)> attributes;
    // A fresh id.
    std::function<ObjectId()> new_object;
  };

  // `maps`: what was learned before a restart.
  ReplayRules(Context context, ReplayMaps maps)
      : context_(std::move(context)), maps_(std::move(maps)) {}

  ReplayDecision Decide(const record::v1::Record& queued);

 private:
  using Row = storage::v1::ObjectRow;

  ReplayDecision Create(const record::v1::Record& queued);
  ReplayDecision Link(const record::v1::Record& queued);
  ReplayDecision Remove(const record::v1::Record& queued);
  ReplayDecision Rename(const record::v1::Record& queued);
  ReplayDecision ChangeData(const record::v1::Record& queued, uint64_t object);
  ReplayDecision ChangeAttributes(const record::v1::Record& queued, uint64_t object,
                                  const record::v1::Attributes& wanted);

  // What has the object's content now, and what has its names.
  uint64_t Map(uint64_t object) const;
  uint64_t Named(uint64_t object) const;
  std::string Map(uint64_t directory, const std::string& name) const;
  std::optional<Row> Object(uint64_t id) const;
  std::optional<storage::v1::EntryRow> Entry(uint64_t directory, const std::string& name) const;
  // Whether the record's statement about an aspect holds: the version is the stated one, or ours.
  bool Holds(const record::v1::Record& queued, record::v1::Aspect aspect, uint64_t object,
             const std::string& name, uint64_t current) const;
  bool Ours(uint64_t version) const;
  bool IsBelow(uint64_t directory, uint64_t above) const;

  // The directory that the record means, brought back under a conflict name where it is gone.
  uint64_t Directory(const record::v1::Record& queued, uint64_t directory,
                     ReplayDecision& decision);
  // A free name in `directory`: `name`, or a conflict name, which is then learned.
  std::string FreeName(const record::v1::Record& queued, uint64_t queued_directory,
                       uint64_t directory, const std::string& name, ReplayDecision& decision);
  std::string ConflictName(const record::v1::Record& queued, uint64_t directory,
                           const std::string& name) const;
  // The local version of `object` under a conflict name in its old place, or at (directory, name).
  void KeepLocalVersion(const record::v1::Record& queued, uint64_t object,
                        ReplayDecision& decision);
  // (directory, name) of the queue is free again: it means itself.
  void Vacate(uint64_t directory, const std::string& name, ReplayDecision& decision);
  void LearnObject(uint64_t from, uint64_t to, ReplayDecision& decision);

  const Context context_;
  ReplayMaps maps_;
  // Made by the steps of the present decision, not yet in the table: (directory, name), objects.
  std::map<std::pair<uint64_t, std::string>, uint64_t> planned_names_;
  std::map<uint64_t, Row> planned_objects_;
};

}  // namespace intermezzo::sidecar
