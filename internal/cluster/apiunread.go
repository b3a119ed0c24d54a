package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// unreadReason is of events about what the API server does not let be read.
const unreadReason = "ObjectsNotReadable"

// observed is the list and the watch of a kind, with whoever has to know told how they end. It streams lists if what it wraps does.
func (s *APISource) observed(w *watched) cache.ListerWatcher {
	if w.optional {
		return w.list
	}
	inner := cache.ToListerWatcherWithContext(w.list)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := inner.ListWithContext(ctx, options)
			if err != nil {
				s.unreadable(ctx, w.kind, err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			events, err := inner.WatchWithContext(ctx, options)
			if err != nil {
				s.unreadable(ctx, w.kind, err)
			} else {
				s.readable(w.kind)
			}
			return events, err
		},
	}, w.list)
}

// unreadable takes note that a kind cannot be read. That a server is away is nobody's fault here, and passes; that it refuses
// is told to the node's users, once per message.
func (s *APISource) unreadable(ctx context.Context, kind string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.unread.WithLabelValues(kind).Set(1)
	text := fmt.Sprintf("%s: %v", kind, err)
	s.mu.Lock()
	said := s.failing[kind] == text
	s.failing[kind] = text
	s.mu.Unlock()
	if said || !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		return
	}
	text = fmt.Sprintf("the API server does not let objects be read that the node depends on, it goes on with what it knows: %s. Give the role what the documentation says (docs/network-policy.md, What is read)", text)
	s.log.Error(text)
	s.warn(Object{}, unreadReason, text)
}

func (s *APISource) readable(kind string) {
	s.unread.WithLabelValues(kind).Set(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failing, kind)
}

// Unread says which kinds cannot be listed or watched at the moment and why, nil if all can.
func (s *APISource) Unread() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, text := range s.failing {
		errs = append(errs, errors.New(text))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
