// Where the results of a map go.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// The product of a token with a row of weights: bias, scale, and what is there are the job's. Rows beyond the last are left out.
DEVICE void put_product(const MatJob& job, uint32_t token, uint32_t row, float sum) {
    if (row >= job.rows) return;
    if (job.bias) sum += job.bias[row];
    if (job.scale) sum *= sigmoid(job.scale[(size_t)token * job.scale_stride]);
    float* y = job.y + (size_t)token * job.y_stride + row;
    *y = job.accumulate ? *y + sum : sum;
}
