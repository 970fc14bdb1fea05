"""Tiny releases in the official layouts, with what a builder must make of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NAN = None  # unknown; JSON's way, because NaN is not equal to itself


@dataclass
class TinyRelease:
    """
    Args:
        files: Tables and lists: text by path.
        images: Paths of images, official suffixes included.
        rows: What comes of them, by image id: split, labels, and what else is known.
        options: Options of the builder.
        problems: Lines that cannot be used.
    """

    files: dict[str, str]
    images: list[str]
    rows: dict[str, tuple]
    options: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def write(self, root: Path, draw: Callable[[Path], None] = lambda path: path.touch()) -> Path:
        for name, text in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        for name in self.images:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            draw(root / name)
        return root


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def one_hot(count: int, *positives: int) -> list[float]:
    return [float(position in positives) for position in range(count)]


CHEXPERT = "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
CHEXPERT += "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
MIMIC = ",".join(sorted(CHEXPERT.split(",")))
VINDR = "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
VINDR += "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
VINDR += "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,"
VINDR += "Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding"


def vindr_line(start: str, *findings: str) -> str:
    names = VINDR.split(",")
    assert set(findings) <= set(names)
    return f"{start}," + ",".join(str(int(name in findings)) for name in names)


VINDR_FILES = {
    "annotations/image_labels_train.csv": rows(
        f"image_id,rad_id,{VINDR}",
        vindr_line("v3,R1", "Pleural effusion", "Tuberculosis"),
        vindr_line("v0,R9", "No finding"),
        vindr_line("v3,R2", "Pleural effusion", "Pneumonia", "COPD"),
        vindr_line("v3,R3", "No finding"),
        vindr_line("v0,R8", "No finding"),
        vindr_line("v0,R10", "Other diseases", "Rib fracture"),
    ),
    "annotations/image_labels_test.csv": rows(
        f"image_id,{VINDR}".replace("Other diseases", "Other disease"),
        vindr_line("w0", "Other diseases", "Lung tumor"),
    ),
    "annotations/annotations_train.csv": rows("image_id,rad_id,class_name"),
}
VINDR_IMAGES = ["train/v0.dicom", "train/v3.dicom", "test/w0.dicom"]

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
KERMANY_IMAGES = [
    "chest_xray/train/NORMAL/IM-0115-0001.jpeg",
    "chest_xray/train/NORMAL/NORMAL2-IM-0383-0001.jpeg",
    "chest_xray/train/PNEUMONIA/person4_bacteria_13.jpeg",
    "chest_xray/train/PNEUMONIA/person4_virus_15.jpeg",
    "chest_xray/val/PNEUMONIA/person1946_bacteria_4874.jpeg",
    "chest_xray/test/NORMAL/IM-0001-0001.jpeg",
    "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg",
    "chest_xray/chest_xray/test/PNEUMONIA/person1_virus_6.jpeg",
    "chest_xray/__MACOSX/chest_xray/test/PNEUMONIA/._person1_virus_6.jpeg",
]
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels,MethodLabel"
)


def padchest_row(
    number: int, patient: str, labels: str, view: str = "PA", sex: str = "F", born: str = "1930.0"
) -> str:
    return f'{number},i{number}.png,{number},20140915,s{number},{patient},{born},{sex},{view},"{labels}",Physician'


IDRID_FILES = {
    "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv": rows(
        "Image name,Retinopathy grade,Risk of macular edema ,,,", "IDRiD_001,3,2,,,", "IDRiD_002,0,1,,,"
    ),
    "B. Disease Grading/2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv": rows(
        "Image name,Retinopathy grade,Risk of macular edema ", "IDRiD_001,4,0"
    ),
}
IDRID_IMAGES = [
    "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg",
    "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_002.jpg",
    "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg",
    "C. Localization/1. Original Images/a. Training Set/IDRiD_001.jpg",
]
MESSIDOR_FILES = {
    "messidor_data.csv": rows(
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable",
        "20051020_43808_0100_PP.png,0.0,0.0,1",
        "20051020_43832_0100_PP.png,1.0,1.0,1",
        "IM002385.jpg,,,0",
    ),
    "messidor-2.csv": rows("left;right", "20051020_43808_0100_PP.png;20051020_43832_0100_PP.png"),
}
MESSIDOR_IMAGES = ["IMAGES/20051020_43808_0100_PP.png", "IMAGES/20051020_43832_0100_PP.png", "IMAGES/IM002385.JPG"]
MAMMO_FILES = {
    "breast-level_annotations.csv": rows(
        "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split",
        "b8d2,9a1f,4e3a,L,MLO,3518,2800,BI-RADS 1,DENSITY C,training",
        "b8d2,9a1f,dac3,R,CC,3518,2800,BI-RADS 4,DENSITY C,training",
        "8269,d931,ba1c,L,CC,3518,2800,BI-RADS 5,DENSITY D,test",
    ),
    "finding_annotations.csv": rows("study_id,image_id"),
}
MAMMO_IMAGES = ["images/b8d2/4e3a.dicom", "images/b8d2/dac3.dicom", "images/8269/ba1c.dicom"]

RELEASES = {
    "chestxray14": TinyRelease(
        files={
            "Data_Entry_2017_v2020.csv": rows(
                NIH_HEADER,
                "00000001_000.png,Cardiomegaly|Hernia,0,1,57,M,PA,2682,2749,0.143,0.143",
                "00000021_003.png,No Finding,3,21,414,F,AP,2500,2048,0.168,0.168",
                "00000003_001.png,Pleural_Thickening,1,3,011M,F,PA,2500,2048,0.168,0.168",
            ),
            "train_val_list.txt": rows("00000001_000.png", "00000021_003.png"),
            "test_list.txt": rows("00000003_001.png"),
            "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n",
        },
        images=[
            "images_001/images/00000001_000.png",
            "images_002/images/00000003_001.png",
            "images/00000021_003.png",
        ],
        rows={
            "00000001_000.png": (
                "train",
                one_hot(14, 1, 13),
                {"patient_id": "00000001", "sex": "M", "age": 57.0, "view": "PA"},
            ),
            "00000021_003.png": ("validation", one_hot(14), {"patient_id": "00000021", "sex": "F", "view": "AP"}),
            "00000003_001.png": (
                "test",
                one_hot(14, 12),
                {"patient_id": "00000003", "sex": "F", "age": 11 / 12, "view": "PA"},
            ),
        },
    ),
    "chexpert": TinyRelease(
        files={
            "CheXpert-v1.0-small/train.csv": rows(
                f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}",
                "small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
                "small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,0.0,,,,,,,",
                "small/train/patient00002/study1/view1_frontal.jpg,Unknown,0,Frontal,LL,,,,,,,,,,,,,,",
            ),
            "CheXpert-v1.0-small/valid.csv": rows(
                f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}",
                "small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,PA" + ",0.0" * 13 + ",1.0",
            ),
            "test_labels.csv": rows(
                f"Path,{CHEXPERT}", "test/patient64741/study1/view1_frontal.jpg" + ",0.0" * 5 + ",1.0" + ",0.0" * 8
            ),
        },
        images=[
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
            "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg",
            "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg",
            "CheXpert-v1.0-small/val/patient64541/study1/view1_frontal.jpg",
            "chexlocalize/CheXpert/test/patient64741/study1/view1_frontal.jpg",
        ],
        rows={
            "patient00001/study1/view1_frontal.jpg": (
                "train",
                [1, *[NAN] * 8, 0, *[NAN] * 3, 1],
                {
                    "patient_id": "patient00001",
                    "study_id": "patient00001/study1",
                    "sex": "F",
                    "age": 68.0,
                    "view": "AP",
                },
            ),
            "patient00002/study2/view2_lateral.jpg": (
                "train",
                [NAN, NAN, -1, 1, NAN, -1, 0, *[NAN] * 7],
                {
                    "patient_id": "patient00002",
                    "study_id": "patient00002/study2",
                    "sex": "M",
                    "age": 87.0,
                    "view": "lateral",
                },
            ),
            "patient00002/study1/view1_frontal.jpg": (
                "train",
                [NAN] * 14,
                {"patient_id": "patient00002", "study_id": "patient00002/study1", "age": 0.0},
            ),
            "patient64541/study1/view1_frontal.jpg": (
                "validation",
                one_hot(14, 13),
                {
                    "patient_id": "patient64541",
                    "study_id": "patient64541/study1",
                    "sex": "M",
                    "age": 73.0,
                    "view": "PA",
                },
            ),
            "patient64741/study1/view1_frontal.jpg": (
                "test",
                one_hot(14, 5),
                {"patient_id": "patient64741", "study_id": "patient64741/study1"},
            ),
        },
    ),
    "mimic_cxr": TinyRelease(
        files={
            "mimic-cxr-2.0.0-split.csv": rows(
                "dicom_id,study_id,subject_id,split",
                "02aa804e-bde0afdd,50414267,10000032,train",
                "174413ec-4ec4c1f7,50414267,10000032,train",
                "2a2277a9-b0ded155,53189527,10000898,validate",
                "e084de3b-be89b11e,53911762,10000980,test",
            ),
            "mimic-cxr-2.0.0-chexpert.csv": rows(
                f"subject_id,study_id,{MIMIC}",
                "10000032,50414267,1.0,,-1.0,0.0,,,,,,,,,,",
                "10000980,53911762,,,,,,,,,1.0,,,,,",
            ),
            "mimic-cxr-2.0.0-metadata.csv": rows(
                "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows",
                "02aa804e-bde0afdd,10000032,50414267,CHEST (PA AND LAT),PA,3056",
                "174413ec-4ec4c1f7,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056",
                "2a2277a9-b0ded155,10000898,53189527,CHEST (PORTABLE AP),AP,2544",
                "e084de3b-be89b11e,10000980,53911762,,,2544",
            ),
        },
        images=[
            "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg",
            "files/p10/p10000032/s50414267/174413ec-4ec4c1f7.jpg",
            "files/p10/p10000898/s53189527/2a2277a9-b0ded155.jpg",
            "files/p10/p10000980/s53911762/e084de3b-be89b11e.jpg",
        ],
        rows={
            "02aa804e-bde0afdd.jpg": (
                "train",
                [1, NAN, -1, 0, *[NAN] * 10],
                {"patient_id": "10000032", "study_id": "50414267", "view": "PA"},
            ),
            "174413ec-4ec4c1f7.jpg": (
                "train",
                [1, NAN, -1, 0, *[NAN] * 10],
                {"patient_id": "10000032", "study_id": "50414267", "view": "lateral"},
            ),
            "2a2277a9-b0ded155.jpg": (
                "validation",
                [NAN] * 14,
                {"patient_id": "10000898", "study_id": "53189527", "view": "AP"},
            ),
            "e084de3b-be89b11e.jpg": (
                "test",
                [*[NAN] * 8, 1, *[NAN] * 5],
                {"patient_id": "10000980", "study_id": "53911762"},
            ),
        },
    ),
    "vindr_cxr": TinyRelease(
        files=VINDR_FILES,
        images=VINDR_IMAGES,
        rows={
            "v3": ("validation", one_hot(6, 0), {}),
            "v0": ("train", one_hot(6, 5), {}),
            "w0": ("test", one_hot(6, 1, 4), {}),
        },
    ),
    "vindr_cxr_all": TinyRelease(
        files=VINDR_FILES,
        images=VINDR_IMAGES,
        options={"readers": "union"},
        rows={
            "v3": ("validation", one_hot(28, 16, 22, 24, 25), {}),
            "v0": ("train", one_hot(28, 20, 26), {}),
            "w0": ("test", one_hot(28, 23, 26), {}),
        },
    ),
    "vinbigdata": TinyRelease(
        files={
            "train.csv": rows(
                "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
                "b5,No finding,14,R11,,,,",
                "b0,Cardiomegaly,3,R9,1,1,9,9",
                "b0,Aortic enlargement,0,R9,1,1,9,9",
                "b0,Aortic enlargement,0,R9,2,2,9,9",
                "b0,Aortic enlargement,0,R10,1,1,9,9",
                "b0,ILD,5,R8,1,1,9,9",
                "b5,No finding,14,R2,,,,",
                "b5,No finding,14,R3,,,,",
            ),
        },
        images=["train/b0.dicom", "train/b5.dicom", "test/unlabelled.dicom"],
        rows={"b5": ("validation", one_hot(15, 14), {}), "b0": ("test", one_hot(15, 0), {})},
    ),
    "rsna": TinyRelease(
        files={
            "stage_2_detailed_class_info.csv": rows(
                "patientId,class",
                "r0,No Lung Opacity / Not Normal",
                "r1,Lung Opacity",
                "r1,Lung Opacity",
                "r2,Normal",
            ),
            "stage_2_train_labels.csv": rows(
                "patientId,x,y,width,height,Target",
                "r0,,,,,0",
                "r1,264.0,152.0,213.0,379.0,1",
                "r1,562,152,256,453,1",
                "r2,,,,,0",
            ),
            "pneumonia-challenge-dataset-mappings_2018.json": (
                '[{"subset_img_id": "r0", "img_id": "00000003_000.png"}, {"subset_img_id": "r1", "img_id": '
                '"00000003_001.png"}, {"subset_img_id": "r2", "img_id": "00000004_000.png"}]'
            ),
        },
        images=[*(f"stage_2_train_images/r{number}.dcm" for number in range(3)), "stage_2_test_images/unlabelled.dcm"],
        rows={
            "r0": ("test", 1, {"patient_id": "00000003"}),
            "r1": ("test", 2, {"patient_id": "00000003"}),
            "r2": ("validation", 0, {"patient_id": "00000004"}),
        },
    ),
    "rsna_opacity": TinyRelease(
        files={
            "stage_2_train_labels.csv": rows(
                "patientId,x,y,width,height,Target", "r4,,,,,0", "r7,264.0,152.0,213.0,379.0,1", "r7,562,152,256,453,1"
            ),
        },
        images=["stage_2_train_images/r4.dcm", "stage_2_train_images/r7.dcm"],
        rows={"r4": ("test", [0], {"patient_id": "r4"}), "r7": ("validation", [1], {"patient_id": "r7"})},
    ),
    "shenzhen": TinyRelease(
        files={
            "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0001_0.txt": "male 45yrs\nnormal\n",
            "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0327_1.txt": "Female , 16month\nPTB, a male relative",
            "ChinaSet_AllFiles/NLM-ChinaCXRSet-ReadMe.txt": "",
        },
        images=[
            "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png",
            "ChinaSet_AllFiles/CXR_png/CHNCXR_0327_1.png",
            "ChinaSet_AllFiles/CXR_png/CHNCXR_0328_1.png",
            "ChinaSet_AllFiles/masks/CHNCXR_0001_0_mask.png",
        ],
        rows={
            "CHNCXR_0001_0.png": ("train", [0], {"sex": "M", "age": 45.0, "view": "PA"}),
            "CHNCXR_0327_1.png": ("train", [1], {"sex": "F", "age": 16 / 12, "view": "PA"}),
            "CHNCXR_0328_1.png": ("train", [1], {"view": "PA"}),
        },
    ),
    "montgomery": TinyRelease(
        files={
            "MontgomerySet/ClinicalReadings/MCUCXR_0001_0.txt": "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n",
            "MontgomerySet/ClinicalReadings/MCUCXR_0104_1.txt": "Patient's Sex: M\r\nPatient's Age: 029Y\r\nimproved",
        },
        images=[
            "MontgomerySet/CXR_png/MCUCXR_0001_0.png",
            "MontgomerySet/CXR_png/MCUCXR_0104_1.png",
            "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png",
            "MontgomerySet/ManualMask/rightMask/MCUCXR_0001_0.png",
        ],
        rows={
            "MCUCXR_0001_0.png": ("validation", [0], {"sex": "F", "age": 27.0, "view": "PA"}),
            "MCUCXR_0104_1.png": ("train", [1], {"sex": "M", "age": 29.0, "view": "PA"}),
        },
    ),
    "covidx": TinyRelease(
        files={
            "train_COVIDx9A.txt": rows(
                "p7 f0.png COVID-19 ricord",
                "p1 f1.png normal rnsa",
                "p1 f2.png pneumonia cohen",
                "p7 f3.png COVID-19 sirm",
            ),
            "test_COVIDx9A.txt": rows("p2 f0.png normal rsna"),
        },
        images=[*(f"train/f{number}.png" for number in range(4)), "test/f0.png"],
        rows={
            "train/f0.png": ("validation", 2, {"patient_id": "p7"}),
            "train/f1.png": ("train", 0, {"patient_id": "p1"}),
            "train/f2.png": ("train", 1, {"patient_id": "p1"}),
            "train/f3.png": ("validation", 2, {"patient_id": "p7"}),
            "test/f0.png": ("test", 0, {"patient_id": "p2"}),
        },
    ),
    "chestdr": TinyRelease(
        files={
            "fewshot-pool.txt": rows("5E26 " + ",".join("1" + "0" * 18), "DX.1.3.46.0 " + ",".join("0" * 18 + "1")),
            "test.txt": rows("5B91 " + ",".join("0" * 19)),
        },
        images=["MedFMC_train/chest/images/5E26.png", "images/DX.1.3.46.0.png", "MedFMC_val/chest/images/5B91.png"],
        rows={
            "5E26": ("train", one_hot(19, 0), {}),
            "DX.1.3.46.0": ("train", one_hot(19, 18), {}),
            "5B91": ("test", one_hot(19), {}),
        },
    ),
    "tbx11k": TinyRelease(
        files={
            "TBX11K/lists/TBX11K_train.txt": rows("health/h0005.png", "imgs/sick/s0001.png", "tb/tb0003.png"),
            "TBX11K/lists/TBX11K_val.txt": rows("tb/tb0005.png"),
            "TBX11K/lists/TBX11K_trainval.txt": rows("health/h0005.png"),
        },
        images=[
            "TBX11K/imgs/health/h0005.png",
            "TBX11K/imgs/sick/s0001.png",
            "TBX11K/imgs/tb/tb0003.png",
            "TBX11K/imgs/tb/tb0005.png",
            "TBX11K/imgs/test/t0001.png",
        ],
        rows={
            "health/h0005.png": ("train", 0, {}),
            "sick/s0001.png": ("train", 1, {}),
            "tb/tb0003.png": ("train", 2, {}),
            "tb/tb0005.png": ("test", 2, {}),
        },
    ),
    "siim_acr": TinyRelease(
        files={
            "train-rle.csv": rows(
                "ImageId, EncodedPixels", "1.2.0,-1", "1.2.3,557374 2 1015 8", "1.2.3, 557 1", "1.2.8,-1"
            ),
        },
        images=[f"dicom-images-train/1.9.{number}/1.8.{number}/1.2.{number}.dcm" for number in (0, 3, 8)],
        options={"splits": "test"},
        rows={"1.2.0": ("test", [0], {}), "1.2.3": ("test", [1], {}), "1.2.8": ("test", [0], {})},
    ),
    "node21": TinyRelease(
        files={
            "cxr_images/proccessed_data/metadata.csv": rows(
                ",height,img_name,label,width,x,y",
                "0,82,n0001.mha,1,94,528,419",
                "1,82,n0001.mha,1,94,700,419",
                "2,30,n0003.mha,1,40,300,400",
                "3,0,c0006.mha,0,0,0,0",
            ),
            "cxr_images/original_data/metadata.csv": "img_name,label\n",
            "cxr_images/original_data/filenames_orig_and_new.csv": rows(
                "orig_dataset,node21_img_id", "chestxray14,n0003", "jsrt,n0001"
            ),
        },
        images=[
            *(f"cxr_images/proccessed_data/images/{name}.mha" for name in ("n0001", "n0003", "c0006")),
            "cxr_images/original_data/images/n0001.mha",
        ],
        options={"sources": "without_chestxray14"},
        rows={"n0001.mha": ("train", [1], {}), "c0006.mha": ("train", [0], {})},
    ),
    "kermany": TinyRelease(
        files={},
        images=KERMANY_IMAGES,
        rows={
            "test/NORMAL/IM-0001-0001.jpeg": ("test", 0, {"patient_id": "IM-0001"}),
            "test/PNEUMONIA/person1_virus_6.jpeg": ("test", 2, {"patient_id": "person1_virus"}),
            "train/NORMAL/IM-0115-0001.jpeg": ("train", 0, {"patient_id": "IM-0115"}),
            "train/NORMAL/NORMAL2-IM-0383-0001.jpeg": ("train", 0, {"patient_id": "NORMAL2-IM-0383"}),
            "train/PNEUMONIA/person4_bacteria_13.jpeg": ("validation", 1, {"patient_id": "person4_bacteria"}),
            "train/PNEUMONIA/person4_virus_15.jpeg": ("train", 2, {"patient_id": "person4_virus"}),
            "val/PNEUMONIA/person1946_bacteria_4874.jpeg": ("train", 1, {"patient_id": "person1946_bacteria"}),
        },
    ),
    "kermany_pneumonia": TinyRelease(
        files={},
        images=[
            "CXR/test/NORMAL/NORMAL-1003233-0001.jpeg",
            "CXR/test/PNEUMONIA/BACTERIA-1008087-0001.jpeg",
            "CXR/train/PNEUMONIA/VIRUS-1040398-0002.jpeg",
        ],
        rows={
            "test/NORMAL/NORMAL-1003233-0001.jpeg": ("test", [0], {"patient_id": "NORMAL-1003233"}),
            "test/PNEUMONIA/BACTERIA-1008087-0001.jpeg": ("test", [1], {"patient_id": "BACTERIA-1008087"}),
            "train/PNEUMONIA/VIRUS-1040398-0002.jpeg": ("train", [1], {"patient_id": "VIRUS-1040398"}),
        },
    ),
    "padchest": TinyRelease(
        files={
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": rows(
                PADCHEST_HEADER,
                padchest_row(0, "pat0", "['normal']"),
                padchest_row(1, "pat1", "['pneumonia', ' COPD signs', '', 'unheard of']", "L", "M", "1930"),
                padchest_row(2, "pat2", "['unchanged', 'cardiomegaly']", "AP_horizontal", "O", ""),
                padchest_row(3, "pat2", "['exclude', 'normal']", "UNK", "nan", "1904.0"),
                padchest_row(4, "pat3", "nan"),
            ),
        },
        images=["0/i0.png", "1/i1.png", "2/i2.png", "54/i3.png", "images/i4.png"],
        rows={
            "i0.png": (
                "validation",
                one_hot(108, 0),
                {"patient_id": "pat0", "study_id": "s0", "sex": "F", "age": 84.0, "view": "PA"},
            ),
            "i1.png": (
                "test",
                one_hot(108, 1, 6),
                {"patient_id": "pat1", "study_id": "s1", "sex": "M", "age": 84.0, "view": "lateral"},
            ),
            "i2.png": (
                "train",
                [NAN, NAN, 1, *[NAN] * 105],
                {"patient_id": "pat2", "study_id": "s2", "view": "AP_horizontal"},
            ),
            "i3.png": ("train", [NAN] * 108, {"patient_id": "pat2", "study_id": "s3", "age": 110.0}),
            "i4.png": (
                "train",
                [NAN] * 108,
                {"patient_id": "pat3", "study_id": "s4", "sex": "F", "age": 84.0, "view": "PA"},
            ),
        },
    ),
    "aptos2019": TinyRelease(
        files={
            "train.csv": rows("id_code,diagnosis", "000c1434d8d7,2", "001639a390f0,4", "002c21358ce6,0"),
            "test.csv": rows("id_code", "0005cfc8afb6"),
        },
        images=[
            *(f"train_images/{name}.png" for name in ("000c1434d8d7", "001639a390f0", "002c21358ce6")),
            "test_images/0005cfc8afb6.png",
        ],
        rows={
            "000c1434d8d7": ("train", 2, {}),
            "001639a390f0": ("train", 4, {}),
            "002c21358ce6": ("test", 0, {}),
        },
    ),
    "idrid": TinyRelease(
        files=IDRID_FILES,
        images=IDRID_IMAGES,
        rows={
            "a. Training Set/IDRiD_001": ("train", 3, {}),
            "a. Training Set/IDRiD_002": ("train", 0, {}),
            "b. Testing Set/IDRiD_001": ("test", 4, {}),
        },
    ),
    "idrid_referable": TinyRelease(
        files=IDRID_FILES,
        images=IDRID_IMAGES,
        rows={
            "a. Training Set/IDRiD_001": ("train", [1, 1, 1], {}),
            "a. Training Set/IDRiD_002": ("train", [0, 0, 0], {}),
            "b. Testing Set/IDRiD_001": ("test", [1, 1, 0], {}),
        },
    ),
    "messidor2": TinyRelease(
        files=MESSIDOR_FILES,
        images=MESSIDOR_IMAGES,
        rows={
            "20051020_43808_0100_PP.png": ("train", 0, {"patient_id": "20051020_43808_0100_PP"}),
            "20051020_43832_0100_PP.png": ("train", 1, {"patient_id": "20051020_43808_0100_PP"}),
            "IM002385.jpg": ("test", -1, {}),
        },
    ),
    "messidor2_referable": TinyRelease(
        files=MESSIDOR_FILES,
        images=MESSIDOR_IMAGES,
        options={"splits": "test"},
        rows={
            "20051020_43808_0100_PP.png": ("test", [0, 0, 0], {"patient_id": "20051020_43808_0100_PP"}),
            "20051020_43832_0100_PP.png": ("test", [1, 0, 1], {"patient_id": "20051020_43808_0100_PP"}),
            "IM002385.jpg": ("test", [NAN] * 3, {}),
        },
    ),
    "vindr_mammo": TinyRelease(
        files=MAMMO_FILES,
        images=MAMMO_IMAGES,
        rows={
            "4e3a": ("train", 0, {"patient_id": "b8d2", "study_id": "b8d2", "view": "LMLO"}),
            "dac3": ("train", 3, {"patient_id": "b8d2", "study_id": "b8d2", "view": "RCC"}),
            "ba1c": ("test", 4, {"patient_id": "8269", "study_id": "8269", "view": "LCC"}),
        },
    ),
    "vindr_mammo_density": TinyRelease(
        files=MAMMO_FILES,
        images=MAMMO_IMAGES,
        rows={
            "4e3a": ("train", 2, {"patient_id": "b8d2", "study_id": "b8d2", "view": "LMLO"}),
            "dac3": ("train", 2, {"patient_id": "b8d2", "study_id": "b8d2", "view": "RCC"}),
            "ba1c": ("test", 3, {"patient_id": "8269", "study_id": "8269", "view": "LCC"}),
        },
    ),
}
