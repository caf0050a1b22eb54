#include "services/sidecar/replica/links.h"

namespace intermezzo::sidecar {

void AddLink(storage::v1::ObjectRow& row, ObjectId parent, const std::string& name) {
  storage::v1::LinkRow& link = *row.add_links();
  link.set_parent(parent.value());
  link.set_name(name);
}

bool DropLink(storage::v1::ObjectRow& row, ObjectId parent, const std::string& name) {
  for (int i = 0; i < row.links_size(); ++i) {
    if (row.links(i).parent() == parent.value() && row.links(i).name() == name) {
      row.mutable_links()->DeleteSubrange(i, 1);
      return true;
    }
  }
  return false;
}

}  // namespace intermezzo::sidecar
