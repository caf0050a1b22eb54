#include "services/sidecar/reconcile/replay_rules.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::ASPECT_ATTRIBUTES;
using record::v1::ASPECT_DATA;
using record::v1::ASPECT_ENTRY;
using record::v1::OBJECT_KIND_DIRECTORY;
using record::v1::OBJECT_KIND_FILE;
using record::v1::Record;

constexpr size_t kLongestName = 255;

ReplayDecision Given(std::string conflict, std::string outcome) {
  ReplayDecision decision;
  decision.conflict = std::move(conflict);
  decision.outcome = std::move(outcome);
  return decision;
}

bool SameAttributes(const record::v1::Attributes& a, const record::v1::Attributes& b) {
  return a.mode() == b.mode() && a.uid() == b.uid() && a.gid() == b.gid() &&
         a.mtime().seconds() == b.mtime().seconds() && a.mtime().nanos() == b.mtime().nanos();
}

}  // namespace

ReplayDecision ReplayRules::Decide(const Record& queued) {
  planned_names_.clear();
  planned_objects_.clear();
  switch (queued.op_case()) {
    case Record::kCreate:
      return Create(queued);
    case Record::kLink:
      return Link(queued);
    case Record::kRemove:
      return Remove(queued);
    case Record::kRename:
      return Rename(queued);
    case Record::kWrite:
      return ChangeData(queued, queued.write().object());
    case Record::kTruncate:
      return ChangeData(queued, queued.truncate().object());
    case Record::kAllocate:
      return ChangeData(queued, queued.allocate().object());
    case Record::kSetAttributes:
      return ChangeAttributes(queued, queued.set_attributes().object(),
                              queued.set_attributes().attributes());
    case Record::kSetXattr:
      return ChangeAttributes(queued, queued.set_xattr().object(), queued.set_xattr().attributes());
    case Record::kRemoveXattr:
      return ChangeAttributes(queued, queued.remove_xattr().object(),
                              queued.remove_xattr().attributes());
    case Record::OP_NOT_SET:
      break;
  }
  return Given("unknown", "left in the conflict store");
}

// ---- what the queue means now ------------------------------------------------------------------

uint64_t ReplayRules::Map(uint64_t object) const {
  auto it = maps_.objects.find(object);
  return it == maps_.objects.end() ? object : it->second;
}

uint64_t ReplayRules::Named(uint64_t object) const {
  // A copy took the content; the names stay those of the object where it is still there.
  return Object(object) ? object : Map(object);
}

void ReplayRules::Vacate(uint64_t directory, const std::string& name, ReplayDecision& decision) {
  auto it = maps_.names.find({directory, name});
  if (it == maps_.names.end()) return;
  it->second = name;
  decision.learned.names[{directory, name}] = name;
}

std::string ReplayRules::Map(uint64_t directory, const std::string& name) const {
  auto it = maps_.names.find({directory, name});
  return it == maps_.names.end() ? name : it->second;
}

std::optional<ReplayRules::Row> ReplayRules::Object(uint64_t id) const {
  if (auto it = planned_objects_.find(id); it != planned_objects_.end()) return it->second;
  return context_.db->Object(ObjectId(id));
}

std::optional<storage::v1::EntryRow> ReplayRules::Entry(uint64_t directory,
                                                        const std::string& name) const {
  if (auto it = planned_names_.find({directory, name}); it != planned_names_.end()) {
    storage::v1::EntryRow row;
    row.set_object(it->second);
    return row;
  }
  return context_.db->Entry(ObjectId(directory), name);
}

bool ReplayRules::Ours(uint64_t version) const {
  const Version made(version);
  return made.ordinal() == context_.ordinal && made.counter() >= context_.first_replayed;
}

bool ReplayRules::Holds(const Record& queued, record::v1::Aspect aspect, uint64_t object,
                        const std::string& name, uint64_t current) const {
  if (Ours(current)) return true;
  for (const auto& touch : queued.touches()) {
    if (touch.aspect() == aspect && touch.object() == object && touch.name() == name) {
      return touch.against() == current;
    }
  }
  return false;
}

bool ReplayRules::IsBelow(uint64_t directory, uint64_t above) const {
  std::set<uint64_t> seen;
  while (seen.insert(directory).second) {
    if (directory == above) return true;
    const auto row = Object(directory);
    if (!row || row->links().empty()) return false;
    directory = row->links(0).parent();
  }
  return false;
}

// ---- names -------------------------------------------------------------------------------------

std::string ReplayRules::ConflictName(const Record& queued, uint64_t directory,
                                      const std::string& name) const {
  for (int attempt = 0;; ++attempt) {
    std::string suffix =
        absl::StrCat(".conflict-", context_.node.str(), "-", Version(queued.version()).counter());
    if (attempt > 0) absl::StrAppend(&suffix, "-", attempt);
    std::string candidate = absl::StrCat(name.substr(0, kLongestName - suffix.size()), suffix);
    if (!Entry(directory, candidate)) return candidate;
  }
}

std::string ReplayRules::FreeName(const Record& queued, uint64_t queued_directory,
                                  uint64_t directory, const std::string& name,
                                  ReplayDecision& decision) {
  if (!Entry(directory, name)) {
    Vacate(queued_directory, name, decision);  // it means itself again
    return name;
  }
  std::string other = ConflictName(queued, directory, name);
  decision.conflict = "name/name";
  decision.outcome = absl::StrCat("kept as ", other);
  maps_.names[{queued_directory, name}] = other;
  decision.learned.names[{queued_directory, name}] = other;
  return other;
}

void ReplayRules::LearnObject(uint64_t from, uint64_t to, ReplayDecision& decision) {
  maps_.objects[from] = to;
  decision.learned.objects[from] = to;
}

uint64_t ReplayRules::Directory(const Record& queued, uint64_t directory,
                                ReplayDecision& decision) {
  const uint64_t now = Map(directory);
  if (now == kRootObject.value()) return now;
  if (const auto row = Object(now); row && row->kind() == OBJECT_KIND_DIRECTORY) return now;
  // It is gone: it comes back beside where it was.
  const auto former = context_.former(ObjectId(directory));
  uint64_t parent = kRootObject.value();
  std::string name = absl::StrCat("directory-", directory);
  if (former && !former->links().empty()) {
    parent = Directory(queued, former->links(0).parent(), decision);
    name = former->links(0).name();
  }
  ReplayStep step;
  auto& op = *step.record.mutable_create();
  op.set_parent(parent);
  op.set_name(ConflictName(queued, parent, name));
  op.set_object(context_.new_object().value());
  op.set_kind(OBJECT_KIND_DIRECTORY);
  op.mutable_attributes()->set_mode(0755);
  *op.mutable_attributes()->mutable_mtime() = queued.time();
  *op.mutable_parent_mtime() = queued.time();
  planned_names_[{parent, op.name()}] = op.object();
  Row& planned = planned_objects_[op.object()];
  planned.set_kind(OBJECT_KIND_DIRECTORY);
  planned.add_links()->set_parent(parent);
  planned.mutable_links(0)->set_name(op.name());
  LearnObject(directory, op.object(), decision);
  decision.conflict = "remove/update";
  decision.outcome = absl::StrCat("its directory came back as ", op.name());
  const uint64_t made = op.object();
  decision.steps.push_back(std::move(step));
  return made;
}

void ReplayRules::KeepLocalVersion(const Record& queued, uint64_t object,
                                   ReplayDecision& decision) {
  if (!context_.has_local_version(ObjectId(object))) {
    decision.outcome = "the server's state stays";
    return;
  }
  const auto former = context_.former(ObjectId(object));
  uint64_t parent = kRootObject.value();
  std::string name = absl::StrCat("file-", object);
  if (former && !former->links().empty()) {
    parent = Directory(queued, former->links(0).parent(), decision);
    name = former->links(0).name();
  }
  ReplayStep step;
  step.data = ReplayStep::Data::kLocalVersion;
  step.local_version_of = ObjectId(object);
  auto& op = *step.record.mutable_create();
  op.set_parent(parent);
  op.set_name(ConflictName(queued, parent, name));
  op.set_object(context_.new_object().value());
  op.set_kind(OBJECT_KIND_FILE);
  *op.mutable_parent_mtime() = queued.time();
  decision.outcome = absl::StrCat("the local version is kept as ", op.name());
  LearnObject(object, op.object(), decision);
  decision.steps.push_back(std::move(step));
}

// ---- the ops -----------------------------------------------------------------------------------

ReplayDecision ReplayRules::Create(const Record& queued) {
  ReplayDecision decision;
  ReplayStep step;
  step.record.mutable_create()->CopyFrom(queued.create());
  auto& op = *step.record.mutable_create();
  op.set_parent(Directory(queued, queued.create().parent(), decision));
  const auto there = Entry(op.parent(), op.name());
  if (there && op.kind() == OBJECT_KIND_DIRECTORY) {
    if (const auto row = Object(there->object()); row && row->kind() == OBJECT_KIND_DIRECTORY) {
      LearnObject(op.object(), there->object(), decision);
      decision.outcome = "one directory with the server's";
      return decision;
    }
  }
  op.set_name(FreeName(queued, queued.create().parent(), op.parent(), op.name(), decision));
  decision.steps.push_back(std::move(step));
  return decision;
}

ReplayDecision ReplayRules::Link(const Record& queued) {
  ReplayDecision decision;
  const uint64_t object = Named(queued.link().object());
  if (!Object(object)) {
    decision.conflict = "update/remove";
    KeepLocalVersion(queued, queued.link().object(), decision);
    return decision;
  }
  ReplayStep step;
  step.record.mutable_link()->CopyFrom(queued.link());
  auto& op = *step.record.mutable_link();
  op.set_object(object);
  op.set_parent(Directory(queued, queued.link().parent(), decision));
  if (const auto there = Entry(op.parent(), op.name()); there && there->object() == object) {
    return decision;  // the same link
  }
  op.set_name(FreeName(queued, queued.link().parent(), op.parent(), op.name(), decision));
  decision.steps.push_back(std::move(step));
  return decision;
}

ReplayDecision ReplayRules::Remove(const Record& queued) {
  const auto& wanted = queued.remove();
  ReplayStep step;
  step.record.mutable_remove()->CopyFrom(wanted);
  auto& op = *step.record.mutable_remove();
  op.set_parent(Map(wanted.parent()));
  op.set_name(Map(wanted.parent(), wanted.name()));
  op.set_object(Named(wanted.object()));
  const auto entry = Entry(op.parent(), op.name());
  if (!entry) return {};  // gone on both sides
  const auto row = Object(op.object());
  if (entry->object() != op.object() || !row) {
    return Given("remove/update", "the name means another object now, which stays");
  }
  if (!Holds(queued, ASPECT_ENTRY, wanted.parent(), wanted.name(), entry->version())) {
    return Given("remove/update", "the name was made anew on the server and stays");
  }
  op.set_last(row->kind() == OBJECT_KIND_DIRECTORY || row->links_size() == 1);
  if (op.last() &&
      (!Holds(queued, ASPECT_DATA, wanted.object(), "", row->data_version()) ||
       !Holds(queued, ASPECT_ATTRIBUTES, wanted.object(), "", row->attributes_version()))) {
    return Given("remove/update", "it was changed on the server and stays");
  }
  if (op.directory() && context_.db->HasEntries(ObjectId(op.object()))) {
    return Given("rmdir", "the directory is not empty on the server and stays");
  }
  ReplayDecision decision;
  Vacate(wanted.parent(), wanted.name(), decision);
  decision.steps.push_back(std::move(step));
  return decision;
}

ReplayDecision ReplayRules::Rename(const Record& queued) {
  const auto& wanted = queued.rename();
  ReplayDecision decision;
  ReplayStep step;
  step.record.mutable_rename()->CopyFrom(wanted);
  auto& op = *step.record.mutable_rename();
  op.clear_object_mtime();  // the server's stay
  op.clear_replaced_mtime();
  op.set_object(Named(wanted.object()));
  op.set_from_parent(Map(wanted.from_parent()));
  op.set_from_name(Map(wanted.from_parent(), wanted.from_name()));
  const auto row = Object(op.object());
  if (!row) {
    decision.conflict = "update/remove";
    KeepLocalVersion(queued, wanted.object(), decision);
    return decision;
  }
  const auto source = Entry(op.from_parent(), op.from_name());
  if (!source || source->object() != op.object() ||
      !Holds(queued, ASPECT_ENTRY, wanted.from_parent(), wanted.from_name(), source->version())) {
    return Given("rename/rename", "the server's place stays");
  }
  op.set_to_parent(Directory(queued, wanted.to_parent(), decision));
  if (row->kind() == OBJECT_KIND_DIRECTORY && IsBelow(op.to_parent(), op.object())) {
    return Given("rename cycle", "the server's place stays");
  }
  op.set_to_name(Map(wanted.to_parent(), wanted.to_name()));
  if (op.to_parent() == op.from_parent() && op.to_name() == op.from_name()) return decision;
  const auto target = Entry(op.to_parent(), op.to_name());
  if (wanted.exchange()) {
    const bool same =
        target && target->object() == Named(wanted.replaced()) && target->object() != op.object() &&
        !IsBelow(op.from_parent(), target->object()) &&
        Holds(queued, ASPECT_ENTRY, wanted.to_parent(), wanted.to_name(), target->version());
    if (!same) return Given("rename/rename", "the exchange is left out");
    op.set_replaced(target->object());
    decision.steps.push_back(std::move(step));
    return decision;
  }
  op.set_replaced(0);
  op.set_replaced_last(false);
  if (target) {
    const auto victim = Object(target->object());
    const bool last =
        victim && (victim->kind() == OBJECT_KIND_DIRECTORY || victim->links_size() == 1);
    const bool same =
        victim && wanted.replaced() != 0 && target->object() == Named(wanted.replaced()) &&
        target->object() != op.object() &&
        Holds(queued, ASPECT_ENTRY, wanted.to_parent(), wanted.to_name(), target->version()) &&
        (!last ||
         (Holds(queued, ASPECT_DATA, wanted.replaced(), "", victim->data_version()) &&
          Holds(queued, ASPECT_ATTRIBUTES, wanted.replaced(), "", victim->attributes_version()))) &&
        !(victim->kind() == OBJECT_KIND_DIRECTORY &&
          context_.db->HasEntries(ObjectId(target->object())));
    if (same) {
      op.set_replaced(target->object());
      op.set_replaced_last(last);
    } else {
      op.set_to_name(
          FreeName(queued, wanted.to_parent(), op.to_parent(), wanted.to_name(), decision));
      if (wanted.replaced() != 0) decision.conflict = "overwritten rename target";
    }
  }
  Vacate(wanted.from_parent(), wanted.from_name(), decision);
  decision.steps.push_back(std::move(step));
  return decision;
}

ReplayDecision ReplayRules::ChangeData(const Record& queued, uint64_t object) {
  const uint64_t now = Map(object);
  const auto row = Object(now);
  ReplayDecision decision;
  if (!row || row->kind() != OBJECT_KIND_FILE) {
    decision.conflict = "update/remove";
    KeepLocalVersion(queued, object, decision);
    return decision;
  }
  if (now != object && context_.has_local_version(ObjectId(object))) {
    return decision;  // the copy has the last local content already
  }
  if (!Holds(queued, ASPECT_DATA, object, "", row->data_version())) {
    decision.conflict = "update/update";
    KeepLocalVersion(queued, object, decision);
    return decision;
  }
  ReplayStep step;
  step.data = queued.has_write() ? ReplayStep::Data::kQueued : ReplayStep::Data::kNone;
  if (queued.has_write()) {
    step.record.mutable_write()->CopyFrom(queued.write());
    step.record.mutable_write()->set_object(now);
  } else if (queued.has_truncate()) {
    step.record.mutable_truncate()->CopyFrom(queued.truncate());
    step.record.mutable_truncate()->set_object(now);
  } else {
    step.record.mutable_allocate()->CopyFrom(queued.allocate());
    step.record.mutable_allocate()->set_object(now);
  }
  decision.steps.push_back(std::move(step));
  return decision;
}

ReplayDecision ReplayRules::ChangeAttributes(const Record& queued, uint64_t object,
                                             const record::v1::Attributes& wanted) {
  const uint64_t now = Map(object);
  const auto row = Object(now);
  ReplayDecision decision;
  if (!row) {
    decision.conflict = "update/remove";
    KeepLocalVersion(queued, object, decision);
    return decision;
  }
  if (now != object && context_.has_local_version(ObjectId(object))) {
    return decision;  // the copy has the last local attributes already
  }
  if (!Holds(queued, ASPECT_ATTRIBUTES, object, "", row->attributes_version())) {
    const auto current = context_.attributes(ObjectId(now));
    if (queued.has_set_attributes() && current && SameAttributes(*current, wanted)) {
      return decision;  // equal results are no conflict
    }
    decision.conflict = "attributes";
    if (row->kind() == OBJECT_KIND_FILE) {
      KeepLocalVersion(queued, object, decision);
    } else {
      decision.outcome = "the server's attributes stay";
    }
    return decision;
  }
  ReplayStep step;
  if (queued.has_set_attributes()) {
    step.record.mutable_set_attributes()->CopyFrom(queued.set_attributes());
    step.record.mutable_set_attributes()->set_object(now);
  } else if (queued.has_set_xattr()) {
    step.record.mutable_set_xattr()->CopyFrom(queued.set_xattr());
    step.record.mutable_set_xattr()->set_object(now);
  } else {
    step.record.mutable_remove_xattr()->CopyFrom(queued.remove_xattr());
    step.record.mutable_remove_xattr()->set_object(now);
  }
  decision.steps.push_back(std::move(step));
  return decision;
}

}  // namespace intermezzo::sidecar
