//go:build node && vm

package cni

import "time"

// onThisKernel are the datapaths that distributions' kernels have.
var onThisKernel = datapaths

// backWithin leaves time to a machine that is not real.
const backWithin = 20 * time.Second
