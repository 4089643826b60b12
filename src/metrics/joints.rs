//! Names of joint angles.

/// The 20 angles of emg2pose, in order.
const HAND: [&str; 20] = [
    "thumb_CMC_FE",
    "thumb_CMC_AA",
    "thumb_MCP_FE",
    "thumb_IP_FE",
    "index_MCP_AA",
    "index_MCP_FE",
    "index_PIP_FE",
    "index_DIP_FE",
    "middle_MCP_AA",
    "middle_MCP_FE",
    "middle_PIP_FE",
    "middle_DIP_FE",
    "ring_MCP_AA",
    "ring_MCP_FE",
    "ring_PIP_FE",
    "ring_DIP_FE",
    "pinky_MCP_AA",
    "pinky_MCP_FE",
    "pinky_PIP_FE",
    "pinky_DIP_FE",
];

/// Names of `n` angles, in order: emg2pose's where there are as many, else numbers.
pub fn joint_names(n: usize) -> Vec<String> {
    match n {
        20 => HAND.map(str::to_owned).to_vec(),
        n => (0..n).map(|i| format!("joint{i}")).collect(),
    }
}
