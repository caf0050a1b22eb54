// What the run is checked against: the promises of DESIGN.md section 3, by number. It watches the
// journal's commits and the nodes' states and collects violations as text.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"
#include "tests/simulation/model_tree.h"

namespace intermezzo::simulation {

class Checker {
 public:
  Checker() : digests_{canonical_.Digest()} {}

  // An entry became durable in the journal, appended under `epoch`.
  void Committed(const record::v1::Entry& entry, Epoch epoch);
  // A node's tree without its pending records, at its cursor (promise 1).
  void ReplicaAt(const std::string& node, Seq cursor, const ModelTree& tree);
  // How many nodes may write under a valid lease now (promise 2).
  void Writers(int count, absl::Duration now);
  // A node opened its gate under a token (promise 3). Records of its own that it has not got back
  // yet are in its tree all the same.
  void GateOpened(const std::string& node, Ordinal ordinal, Epoch epoch, Seq cursor);
  // An update was made, or given up by the conflict rules (promises 5 and 6).
  void Captured(Version version) { captured_.insert(version.value()); }
  void SetAside(Version version) { set_aside_.insert(version.value()); }
  // The journal refused a record made and appended under a valid token as a conflict.
  void Violation(std::string what) { violations_.push_back(std::move(what)); }
  // At the end, when everything is connected and quiet.
  void Finish();

  const std::vector<std::string>& violations() const { return violations_; }
  uint64_t commits() const { return digests_.size() - 1; }
  uint64_t set_aside() const { return set_aside_.size(); }

 private:
  ModelTree canonical_;
  std::vector<std::string> digests_;         // by seq
  std::vector<Ordinal> origins_{Ordinal()};  // by seq
  std::string chain_;
  Epoch last_epoch_;
  std::map<uint64_t, uint64_t> last_origin_;  // ordinal to origin seq
  std::set<uint64_t> committed_, captured_, set_aside_;
  std::vector<std::string> violations_;
};

}  // namespace intermezzo::simulation
