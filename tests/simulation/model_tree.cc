#include "tests/simulation/model_tree.h"

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"

namespace intermezzo::simulation {

uint64_t ModelTree::Current(const record::v1::Touch& touch) const {
  if (touch.aspect() == record::v1::ASPECT_ENTRY) {
    auto it = names_.find(touch.name());
    return it == names_.end() ? 0 : it->second.version;
  }
  auto it = files_.find(touch.object());
  if (it == files_.end()) return 0;
  return touch.aspect() == record::v1::ASPECT_DATA ? it->second.data : it->second.attributes;
}

void ModelTree::StateTouches(record::v1::Record& record) const {
  record.clear_touches();
  for (record::v1::Touch touch : RequiredTouches(record)) {
    touch.set_against(Current(touch));
    *record.add_touches() = touch;
  }
}

bool ModelTree::Fits(const record::v1::Record& record) const {
  for (const auto& touch : record.touches()) {
    if (Current(touch) != touch.against()) return false;
  }
  return true;
}

absl::Status ModelTree::Apply(const record::v1::Record& record, const std::string& payload) {
  if (!Fits(record)) {
    return absl::FailedPreconditionError(
        absl::StrCat("versions do not fit: ", record.ShortDebugString()));
  }
  const uint64_t version = record.version();
  switch (record.op_case()) {
    case record::v1::Record::kCreate:
      files_[record.create().object()] = {version, version, ""};
      names_[record.create().name()] = {record.create().object(), version};
      break;
    case record::v1::Record::kRemove:
      names_.erase(record.remove().name());
      files_.erase(record.remove().object());
      break;
    case record::v1::Record::kRename: {
      const auto& op = record.rename();
      if (op.replaced() != 0) files_.erase(op.replaced());
      names_.erase(op.from_name());
      names_[op.to_name()] = {op.object(), version};
      break;
    }
    case record::v1::Record::kWrite: {
      File& file = files_[record.write().object()];
      const auto& extent = record.write().extents(0);
      file.content.resize(record.write().size());
      file.content.replace(extent.offset(), extent.length(), payload);
      file.data = version;
      break;
    }
    default:
      return absl::UnimplementedError("the model has no such op");
  }
  return absl::OkStatus();
}

std::string ModelTree::Digest() const {
  std::string text;
  for (const auto& [name, row] : names_) {
    const File& file = files_.at(row.object);
    absl::StrAppend(&text, name, "=", row.object, "@", row.version, ":", file.data, ",",
                    file.attributes, "[", file.content, "]\n");
  }
  return absl::StrCat(text, files_.size());
}

std::vector<std::string> ModelTree::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, row] : names_) names.push_back(name);
  return names;
}

uint64_t ModelTree::ObjectAt(const std::string& name) const {
  auto it = names_.find(name);
  return it == names_.end() ? 0 : it->second.object;
}

}  // namespace intermezzo::simulation
