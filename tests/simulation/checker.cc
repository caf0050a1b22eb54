#include "tests/simulation/checker.h"

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"

namespace intermezzo::simulation {

void Checker::Committed(const record::v1::Entry& entry, Epoch epoch) {
  record::v1::Record record;
  if (!record.ParseFromString(entry.record())) return Violation("a committed record is garbage");
  const Version version(record.version());
  const std::string where = absl::StrCat(" (seq ", entry.seq(), ", origin ",
                                         version.ordinal().value(), ":", version.counter(), ")");
  if (entry.seq() != digests_.size()) Violation(absl::StrCat("1: seq is not dense", where));
  if (epoch < last_epoch_) Violation(absl::StrCat("2: a stale epoch committed", where));
  last_epoch_ = std::max(last_epoch_, epoch);
  if (!committed_.insert(version.value()).second) {
    Violation(absl::StrCat("6: committed twice", where));
  }
  uint64_t& last = last_origin_[version.ordinal().value()];
  if (version.counter() <= last) Violation(absl::StrCat("6: origin order broken", where));
  last = version.counter();
  chain_ = ChainHash(chain_, Seq(entry.seq()), entry.record());
  if (chain_ != entry.chain()) Violation(absl::StrCat("1: the chain is wrong", where));
  const auto payload = OpenPayload(entry, record);
  const absl::Status applied = canonical_.Apply(record, payload.ok() ? *payload : "");
  if (!applied.ok()) {
    Violation(absl::StrCat("3: a conflicting record was committed", where, ": ",
                           std::string(applied.message())));
  }
  digests_.push_back(canonical_.Digest());
  origins_.push_back(version.ordinal());
}

void Checker::ReplicaAt(const std::string& node, Seq cursor, const ModelTree& tree) {
  if (cursor.value() >= digests_.size()) {
    return Violation(absl::StrCat("1: ", node, " applied seq ", cursor.value(),
                                  " that the journal does not have"));
  }
  if (tree.Digest() != digests_[cursor.value()]) {
    Violation(absl::StrCat("1: ", node, " at seq ", cursor.value(), " is no prefix"));
  }
}

void Checker::Writers(int count, absl::Duration now) {
  if (count > 1) {
    Violation(absl::StrCat("2: ", count, " writers at ", absl::FormatDuration(now)));
  }
}

void Checker::GateOpened(const std::string& node, Ordinal ordinal, Epoch epoch, Seq cursor) {
  for (Seq seq = cursor.next(); seq.value() < origins_.size(); seq = seq.next()) {
    if (origins_[seq.value()] == ordinal) continue;
    return Violation(absl::StrCat("3: ", node, " opened epoch ", epoch.value(), " at ",
                                  cursor.value(), " without another node's seq ", seq.value()));
  }
}

void Checker::Finish() {
  for (uint64_t version : captured_) {
    if (!committed_.contains(version) && !set_aside_.contains(version)) {
      Violation(absl::StrCat("5: an update is lost: ", Version(version).ordinal().value(), ":",
                             Version(version).counter()));
    }
  }
  for (uint64_t version : committed_) {
    if (!captured_.contains(version)) Violation("6: a record that nobody made was committed");
    if (set_aside_.contains(version)) Violation("6: a record was committed and set aside");
  }
}

}  // namespace intermezzo::simulation
