//go:build node && vm

package cni

// onThisKernel are the datapaths that distributions' kernels have.
var onThisKernel = datapaths
