//go:build node && !vm

package cni

// onThisKernel are the datapaths that kernels like those of continuous integration have.
var onThisKernel = []Datapath{Veth, Exclusive}
