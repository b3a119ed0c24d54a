package sim

import (
	"fmt"
	"net/http"
)

// Error codes of the ECS and VPC APIs.
const (
	codeMissingParameter     = "MissingParameter"
	codeInvalidParameter     = "InvalidParameter"
	codeUnsupportedParameter = "UnsupportedParameter"
	codeInvalidAction        = "InvalidAction.NotFound"
	codeInvalidRegion        = "InvalidRegionId.NotFound"
	codeInvalidAccessKey     = "InvalidAccessKeyId.NotFound"
	codeTimeExpired          = "InvalidTimeStamp.Expired"
	codeTimeFormat           = "InvalidTimeStamp.Format"
	codeNonceUsed            = "SignatureNonceUsed"
	codeBadSignature         = "SignatureDoesNotMatch"
	codeIncompleteSignature  = "IncompleteSignature"
	codeMissingToken         = "MissingSecurityToken"
	codeTokenExpired         = "InvalidSecurityToken.Expired"
	codeTokenMismatch        = "InvalidSecurityToken.MismatchWithAccessKey"
	codeIdempotentMismatch   = "IdempotentParameterMismatch"
	codeInternal             = "InternalError"

	codeEniNotFound     = "InvalidEniId.NotFound"
	codeEcsNotFound     = "InvalidEcsId.NotFound"
	codeVSwitchNotFound = "InvalidVSwitchId.NotFound"
	codeGroupNotFound   = "InvalidSecurityGroupId.NotFound"
	codeEniState        = "InvalidOperation.InvalidEniState"
	codeEcsState        = "InvalidOperation.InvalidEcsState"
	codeDetachPrimary   = "InvalidOperation.DetachPrimaryEniNotAllowed"
	codeEniType         = "InvalidOperation.InvalidEniType"
	codeZoneMismatch    = "InvalidOperation.AvailabilityZoneMismatch"
	codeIPv4Exceeded    = "InvalidOperation.Ipv4CountExceeded"
	codeEniPerInstance  = "EniPerInstanceLimitExceeded"
	codeMaxENIs         = "MaxEniCountExceeded"
	codeIPNotEnough     = "InvalidVSwitchId.IpNotEnough"
	codeIPInvalid       = "InvalidVSwitchId.IpInvalid"
	codeIPAssigned      = "InvalidIp.IpAssigned"
	codeIPUnassigned    = "InvalidIp.IpUnassigned"
	codeIPRepeated      = "InvalidIp.IpRepeated"
	codeIPAddress       = "InvalidIp.Address"

	codeRouteTableNotFound = "InvalidRouteTableId.NotFound"
	codeNATGatewayNotFound = "InvalidNatGatewayId.NotFound"
	codeSNATTableNotFound  = "InvalidSnatTableId.NotFound"
)

// statusOf is the HTTP status each code comes with where it is not 400.
var statusOf = map[string]int{
	codeInvalidAction:    http.StatusNotFound,
	codeInvalidRegion:    http.StatusNotFound,
	codeInvalidAccessKey: http.StatusNotFound,
	codeEniNotFound:      http.StatusNotFound,
	codeEcsNotFound:      http.StatusNotFound,
	codeVSwitchNotFound:  http.StatusNotFound,
	codeGroupNotFound:    http.StatusNotFound,
	codeEniType:          http.StatusForbidden,
	codeZoneMismatch:     http.StatusForbidden,
	codeIPv4Exceeded:     http.StatusForbidden,
	codeEniPerInstance:   http.StatusForbidden,
	codeMaxENIs:          http.StatusForbidden,
	codeIPNotEnough:      http.StatusForbidden,
	codeIPInvalid:        http.StatusForbidden,
	codeIPAssigned:       http.StatusForbidden,
	codeIPUnassigned:     http.StatusForbidden,
	codeIPRepeated:       http.StatusForbidden,
	codeIPAddress:        http.StatusForbidden,
	codeInternal:         http.StatusInternalServerError,

	codeRouteTableNotFound: http.StatusNotFound,
	codeNATGatewayNotFound: http.StatusNotFound,
	codeSNATTableNotFound:  http.StatusNotFound,
}

// A refusal is an error answer of the API.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(code, format string, args ...any) *refusal {
	status := statusOf[code]
	if status == 0 {
		status = http.StatusBadRequest
	}
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func missing(param string) *refusal {
	return &refusal{
		status: http.StatusBadRequest, code: codeMissingParameter + "." + param,
		message: fmt.Sprintf("The input parameter %q that is mandatory for processing this request is not supplied.", param),
	}
}

func invalid(param, value string) *refusal {
	return refuse(codeInvalidParameter, "The specified parameter %q has the value %q, which is not valid.", param, value)
}
