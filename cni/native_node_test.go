//go:build node && !vm

package cni

import "time"

// onThisKernel are the datapaths that kernels like those of continuous integration have.
var onThisKernel = []Datapath{Veth, Exclusive}

// backWithin is what is promised.
const backWithin = time.Second
