// Package externaldns publishes names of the cluster in the zones of Alibaba Cloud PrivateZone.
package externaldns
