// What every object compiles for its own instruction set; FEDQ_ISA is the table's name.
#include "floors.hpp"
#include "qsgd.hpp"
#include "rans.hpp"
#include "steps.hpp"
#include "table.hpp"
#include "ternary.hpp"
#include "topk.hpp"
#include "weighted.hpp"

const fedq::Kernels fedq::FEDQ_ISA = {
#define KERNEL(result, name, parameters, arguments) ::name,
#include "kernels.def"
#undef KERNEL
};
