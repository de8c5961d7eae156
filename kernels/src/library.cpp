// What the library shows: its operators to onnxruntime, its kernels to Python.
#include "operators.h"
#include "ort.h"
#include "product.h"
#include "shelf.h"

namespace ptune {
const OrtApi* api = nullptr;
}

extern "C" {

__attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                 const OrtApiBase* base) {
  using ptune::api;
  api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    return nullptr;  // an onnxruntime that is older; it says itself that it does not know the operators
  static const OrtCustomOp operators[] = {ptune::rounded_product(), ptune::block_product(),
                                          ptune::gated_unit(), ptune::attention(), ptune::int8_attention(),
                                          ptune::low_rank_update()};
  static OrtCustomOpDomain* domain = nullptr;
  if (domain == nullptr) {
    if (OrtStatus* status = api->CreateCustomOpDomain("ptune", &domain)) return status;
    for (const OrtCustomOp& op : operators)
      if (OrtStatus* status = api->CustomOpDomain_Add(domain, &op)) return status;
  }
  return api->AddCustomOpDomain(options, domain);
}

// The kernel that this processor gets.
__attribute__((visibility("default"))) const char* ptune_kernel() { return ptune::best_kernel().name; }

// Chooses a kernel for sessions that open afterwards, for tests; 0 where this processor has none of this
// name.
__attribute__((visibility("default"))) int ptune_use_kernel(const char* name) {
  return ptune::use_kernel(name);
}

// Moves some of the packed weights of open sessions into a large page; 0 where all lie in such.
__attribute__((visibility("default"))) int ptune_merge_page() { return ptune::shelf().merge_one(); }
}
