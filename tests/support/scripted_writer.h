// Writes to a replica without a mount.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "services/sidecar/replica/replica.h"

namespace intermezzo::tests {

// Updates a replica as presto would: through the gate, waiting there as long as the session lets
// it.
class ScriptedWriter {
 public:
  explicit ScriptedWriter(std::shared_ptr<sidecar::Replica> replica)
      : replica_(std::move(replica)) {}

  // All return 0 or an errno. Names are of the root directory.
  int Create(const std::string& name);
  // Creates the file where it is not there.
  int Write(const std::string& name, uint64_t offset, const std::string& bytes);
  // At the file's end as it is inside the gate.
  int Append(const std::string& name, const std::string& bytes);
  int Unlink(const std::string& name);
  // As it is on the lower directory.
  std::string Read(const std::string& name) const;

 private:
  int Update(const std::function<int()>& work);
  int WriteInside(const std::string& name, uint64_t offset, bool append, const std::string& bytes);
  std::string Path(const std::string& name) const;

  std::shared_ptr<sidecar::Replica> replica_;
};

}  // namespace intermezzo::tests
