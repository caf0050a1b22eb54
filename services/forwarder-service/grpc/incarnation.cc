#include "services/forwarder-service/grpc/incarnation.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace intermezzo::forwarder {

absl::Status CheckIncarnation(const Incarnations& registered, const std::string& node,
                              const std::string& instance, uint32_t ordinal) {
  auto found = registered.find(node);
  if (found == registered.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("node \"", node, "\" is not registered: register it first"));
  }
  const Incarnation& owner = found->second;
  if (owner.instance == instance && owner.ordinal == ordinal) return absl::OkStatus();
  const std::string stranger = absl::CHexEscape(instance.substr(0, 80));
  if (owner.instance == instance) {
    return absl::FailedPreconditionError(
        absl::StrCat("instance ", stranger, " of node \"", node, "\" is registered with ordinal ",
                     owner.ordinal, ", this stream states ", ordinal, ": register it again"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "node name \"", node, "\" is in use by instance ", owner.instance, " (ordinal ",
      owner.ordinal, ") at ", owner.address, "; this stream is of instance ", stranger,
      " (ordinal ", ordinal, "). Give one of them another name. If the first is gone for good, ",
      "stop it: the second gets the name when it registers"));
}

}  // namespace intermezzo::forwarder
