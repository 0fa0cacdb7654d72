//! The content-addressed index: what lies in a project's trees and what its bytes are.
