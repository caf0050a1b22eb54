// The names of an object, as its row keeps them.
#pragma once

#include <string>

#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

void AddLink(storage::v1::ObjectRow& row, ObjectId parent, const std::string& name);
// False: it has no such name.
bool DropLink(storage::v1::ObjectRow& row, ObjectId parent, const std::string& name);

}  // namespace intermezzo::sidecar
