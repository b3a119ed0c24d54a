package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
)

func (a *agent) buildCNI(context.Context) (err error) {
	a.cni, err = cni.NewServer(cni.Config{
		Addresses: poolAddresses{a.pool}, Pods: kernelPods{a.datapath.Pods}, Status: a.cniStatus, MTU: a.host.MTU, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.cni.Close)
	a.tasks = append(a.tasks,
		cni.NewPending(a.cni, agentapi.PendingDir(a.cfg.Socket), 0),
		// What is gone from the node must not be taken for gone before the pool knows what it has.
		&delayed{task: cni.NewCollector(a.cni, 0), first: []<-chan struct{}{a.pool.Ready()}})
	return nil
}

// cniStatus is the answer to STATUS: a pod can be added once it would be fully served.
func (a *agent) cniStatus() error {
	if waiting := a.forADD.waiting(); len(waiting) > 0 {
		return fmt.Errorf("not ready: %s", strings.Join(waiting, ", "))
	}
	if s := a.pool.Stats(); s.Used+s.Cooling >= s.Capacity {
		return errors.New("every address that the instance type allows is in use")
	}
	return nil
}
