// The model of a collection: one directory of files with their versions. What a replica must equal
// is this tree after a prefix of the journal. It shares no code with the journal's checks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::simulation {

class ModelTree {
 public:
  // Fills in what the record touches, against this tree's versions.
  void StateTouches(record::v1::Record& record) const;
  // True where the record's stated versions are this tree's.
  bool Fits(const record::v1::Record& record) const;
  // FAILED_PRECONDITION and nothing changed where it does not fit.
  absl::Status Apply(const record::v1::Record& record, const std::string& payload);

  // Everything, versions included, as text.
  std::string Digest() const;
  std::vector<std::string> Names() const;
  uint64_t ObjectAt(const std::string& name) const;

 private:
  struct File {
    uint64_t data = 0, attributes = 0;
    std::string content;
  };
  struct Name {
    uint64_t object = 0, version = 0;
  };
  uint64_t Current(const record::v1::Touch& touch) const;

  std::map<uint64_t, File> files_;
  std::map<std::string, Name> names_;
};

}  // namespace intermezzo::simulation
